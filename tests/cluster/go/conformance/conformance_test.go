// Package conformance is the Gateway API conformance suite, to be compiled with `go test -c`.
package conformance

import (
	"testing"

	suite "sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { suite.RunConformance(t) }
