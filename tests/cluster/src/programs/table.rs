//! Every program of the cluster: where its source is pinned, how it is built, what comes out.

/// One row: a directory under `go/`, how it is built, and the programs that come out.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Under `go/`.
    pub(super) directory: &'static str,
    pub(super) source: Source,
    /// Files in the result, in the order of the packages.
    pub(super) outputs: &'static [&'static str],
    /// Other names of the first output, which looks at the name that it is called by.
    pub(super) links: &'static [&'static str],
}

#[derive(Debug)]
pub(super) enum Source {
    Go {
        cgo: bool,
        tags: &'static str,
        ldflags: &'static str,
        packages: &'static [&'static str],
    },
    /// `go test -c`, with a toolchain that Go downloads when it is not there.
    GoTest {
        toolchain: &'static str,
    },
    /// One C file in a module that the directory's go.mod names.
    C {
        module: &'static str,
        file: &'static str,
    },
}

pub(super) const PROGRAMS: [Program; 10] = [
    Program {
        name: "kubernetes",
        directory: "kubernetes",
        source: Source::Go {
            cgo: false,
            tags: "",
            ldflags: "-X k8s.io/component-base/version.gitVersion=v1.37.2 \
                      -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37",
            packages: &["."],
        },
        outputs: &["hyper"],
        links: &[
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ],
    },
    Program {
        name: "pause",
        directory: "kubernetes",
        source: Source::C { module: "k8s.io/kubernetes", file: "build/pause/linux/pause.c" },
        outputs: &["pause"],
        links: &[],
    },
    go("etcd", &["go.etcd.io/etcd/server/v3"], &["etcd"]),
    Program {
        name: "containerd",
        directory: "containerd",
        source: Source::Go {
            cgo: false,
            tags: "no_btrfs no_devmapper no_zfs no_aufs", // snapshotters for filesystems that we do not use
            ldflags: "-X github.com/containerd/containerd/v2/version.Version=v2.4.2",
            packages: &[
                "github.com/containerd/containerd/v2/cmd/containerd",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ],
        },
        outputs: &["containerd", "containerd-shim-runc-v2"],
        links: &[],
    },
    Program {
        name: "runc",
        directory: "runc",
        source: Source::Go {
            cgo: true, // nsexec, and libseccomp
            tags: "seccomp",
            ldflags: "",
            packages: &["github.com/opencontainers/runc"],
        },
        outputs: &["runc"],
        links: &[],
    },
    go(
        "cni",
        &[
            "github.com/containernetworking/plugins/plugins/main/bridge",
            "github.com/containernetworking/plugins/plugins/main/ptp",
            "github.com/containernetworking/plugins/plugins/main/loopback",
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "github.com/containernetworking/plugins/plugins/meta/portmap",
        ],
        &["bridge", "ptp", "loopback", "host-local", "portmap"],
    ),
    go("coredns", &["."], &["coredns"]),
    go(
        "pebble",
        &[
            "github.com/letsencrypt/pebble/v2/cmd/pebble",
            "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv",
        ],
        &["pebble", "pebble-challtestsrv"],
    ),
    go("helm", &["helm.sh/helm/v4/cmd/helm"], &["helm"]),
    go("echo-basic", &["sigs.k8s.io/gateway-api-conformance-images/echo-basic"], &["echo-basic"]),
];

/// Built on demand: it takes minutes, and only the conformance run needs it.
pub(super) const CONFORMANCE: Program = Program {
    name: "conformance",
    directory: "conformance",
    source: Source::GoTest { toolchain: "go1.27.0" }, // what gateway-api/conformance v1.7.0 asks for
    outputs: &["conformance.test"],
    links: &[],
};

/// A static program without options.
const fn go(
    name: &'static str,
    packages: &'static [&'static str],
    outputs: &'static [&'static str],
) -> Program {
    let source = Source::Go { cgo: false, tags: "", ldflags: "", packages };
    Program { name, directory: name, source, outputs, links: &[] }
}
