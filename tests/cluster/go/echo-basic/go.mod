module signet.test/echo-basic

go 1.26.4

// The newest version that the module proxy serves: v0.2.0 is refused (403 on its zip).
require sigs.k8s.io/gateway-api-conformance-images v0.1.0 // indirect

require (
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260706201446-f0a921348800 // indirect
	google.golang.org/grpc v1.84.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

tool sigs.k8s.io/gateway-api-conformance-images/echo-basic
