//! Programs in pods: run, read, reached.

use std::collections::BTreeSet;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use signet_cluster::{TOOLBOX, test};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::pods::{nginx, toolbox};

#[tokio::test]
async fn exec_tells_both_outputs_and_the_exit_status() -> Result<()> {
    test(async |namespace| {
        namespace.apply(&toolbox("pod", "node2")).await?;
        namespace.wait_ready("pod").await?;
        let script = "echo to stdout; echo to stderr >&2; exit 7";
        let output = namespace.exec("pod", "toolbox", &["sh", "-c", script]).await?;
        assert_eq!((&*output.stdout, &*output.stderr, output.status), ("to stdout\n", "to stderr\n", 7));
        let error = output.ok().unwrap_err().to_string();
        assert!(error.contains("ended with 7") && error.contains("to stderr"), "{error}");
        let error = format!("{:#}", namespace.exec("pod", "nobody", &["true"]).await.unwrap_err());
        assert!(error.contains("container nobody"), "{error}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_large_output_of_exec_arrives_whole() -> Result<()> {
    test(async |namespace| {
        namespace.apply(&toolbox("pod", "node2")).await?;
        namespace.wait_ready("pod").await?;
        let output = namespace.exec("pod", "toolbox", &["seq", "200000"]).await?.ok()?;
        assert_eq!(output.lines().count(), 200_000);
        assert!(output.ends_with("\n200000"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn logs_show_what_each_container_wrote() -> Result<()> {
    test(async |namespace| {
        namespace
            .apply(
                "
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  restartPolicy: Never
  containers:
  - {name: one, image: signet.test/toolbox:1, imagePullPolicy: IfNotPresent, args: [sh, -c, echo one; echo first >&2]}
  - {name: two, image: signet.test/toolbox:1, imagePullPolicy: IfNotPresent, args: [echo, two]}
",
            )
            .await?;
        let ended = |pod: &Pod| pod.status.as_ref().is_some_and(|it| it.phase.as_deref() == Some("Succeeded"));
        namespace.wait_for("pod", "to end", ended).await?;
        let log = namespace.logs("pod", "one").await?;
        let lines: BTreeSet<_> = log.lines().collect(); // of two streams, in no order between them
        assert_eq!(lines, BTreeSet::from(["one", "first"]));
        assert_eq!(namespace.logs("pod", "two").await?, "two\n");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn port_forward_reaches_a_port_of_a_pod() -> Result<()> {
    test(async |namespace| {
        namespace.apply(&nginx("web", "web", "node2")).await?;
        namespace.wait_ready("web").await?;
        let mut stream = namespace.port_forward("web", 8080).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.contains("nginx on web for "), "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_client_pod_runs_on_its_node_to_its_end() -> Result<()> {
    test(async |namespace| {
        let script = "cat; echo done; exit 3";
        let output = namespace.run_client_on("node2", TOOLBOX, &["sh", "-c", script]).await?;
        assert_eq!((&*output.stdout, output.status), ("done\n", 3));
        let pods = namespace.api::<Pod>().list(&Default::default()).await?.items;
        let nodes: Vec<_> = pods.iter().map(|pod| pod.spec.as_ref().unwrap().node_name.as_deref()).collect();
        assert_eq!(nodes, [Some("node2")]);
        Ok(())
    })
    .await
}
