//! Programs in pods: run in one that is there, or as a client pod of their own; their logs; and a port of a pod.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{AttachParams, LogParams, PostParams};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, DuplexStream},
    time::timeout,
};

use super::{
    Namespace,
    output::{Output, PATIENCE},
};

impl Namespace {
    /// Runs a program in a container to its end. A program that fails is an output; one that could not be run, an error.
    pub async fn exec(&self, pod: &str, container: &str, argv: &[&str]) -> Result<Output> {
        let command = argv.join(" ");
        timeout(PATIENCE, Box::pin(self.exec_to_end(pod, container, argv, &command)))
            .await
            .with_context(|| format!("`{command}` in {pod} did not end within {PATIENCE:?}"))?
            .with_context(|| format!("exec `{command}` in {pod}, container {container}"))
    }

    async fn exec_to_end(&self, pod: &str, container: &str, argv: &[&str], command: &str) -> Result<Output> {
        let attach = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
        let mut process = self.api::<Pod>().exec(pod, argv.iter().copied(), &attach).await?;
        let status = process.take_status().context("no status stream")?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), status);
        let status = status.context("the connection ended before the program")?;
        Ok(Output { command: command.into(), stdout: stdout?, stderr: stderr?, status: exit_code(&status)? })
    }

    /// Everything that a container wrote since it started.
    pub async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        let of = LogParams { container: Some(container.into()), ..LogParams::default() };
        let log = self.api::<Pod>().logs(pod, &of).await;
        log.with_context(|| format!("read the log of {pod}, container {container}"))
    }

    /// A connection to a port of a pod, through the API server and the pod's kubelet.
    pub async fn port_forward(&self, pod: &str, port: u16) -> Result<DuplexStream> {
        let mut forward = self.api::<Pod>().portforward(pod, &[port]).await?;
        forward.take_stream(port).with_context(|| format!("no stream to port {port} of {pod}"))
    }

    /// Runs a program as a pod of its own, on any node, to its end. Both its streams are `stdout`: the kubelet mixes them.
    pub async fn run_client(&self, image: &str, argv: &[&str]) -> Result<Output> {
        Box::pin(self.client_pod(image, argv, json!({}))).await
    }

    /// [`Namespace::run_client`] on this node.
    pub async fn run_client_on(&self, node: &str, image: &str, argv: &[&str]) -> Result<Output> {
        Box::pin(self.client_pod(image, argv, json!({ "nodeName": node }))).await
    }

    async fn client_pod(&self, image: &str, argv: &[&str], mut spec: serde_json::Value) -> Result<Output> {
        spec["restartPolicy"] = "Never".into();
        spec["terminationGracePeriodSeconds"] = 0.into();
        spec["containers"] = json!([{ "name": "client", "image": image, "command": argv }]);
        let pod = json!({ "metadata": { "generateName": "client-" }, "spec": spec });
        let api = self.api::<Pod>();
        let pod = api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let name = pod.metadata.name.context("a created pod has a name")?;
        let pod = self.wait_for::<Pod>(&name, "to end", |pod| exit_code_of(pod).is_some()).await?;
        let status = exit_code_of(&pod).context("it has ended")?;
        let stdout = self.logs(&name, "client").await?;
        Ok(Output { command: argv.join(" "), stdout, stderr: String::new(), status })
    }
}

fn exit_code_of(pod: &Pod) -> Option<i32> {
    let client = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(client.state.as_ref()?.terminated.as_ref()?.exit_code)
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Result<String> {
    let mut bytes = Vec::new();
    stream.context("a stream that was asked for")?.read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of an exec, as the kubelet tells it: `Success`, or the exit code as a cause.
fn exit_code(status: &Status) -> Result<i32> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse().ok());
    match code {
        Some(code) => Ok(code),
        None => bail!("{}", status.message.as_deref().unwrap_or("ended without a reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_ends_with_the_exit_code_or_with_the_reason_why_there_is_none() {
        let failed = json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "exit code 7",
            "details": { "causes": [{ "reason": "ExitCode", "message": "7" }] },
        });
        let never = json!({ "status": "Failure", "message": "no such container" });
        for (status, want) in [
            (json!({ "status": "Success" }), Ok(0)),
            (failed, Ok(7)),
            (never, Err("no such container".to_owned())),
            (json!({}), Err("ended without a reason".to_owned())),
        ] {
            let status: Status = serde_json::from_value(status).unwrap();
            assert_eq!(exit_code(&status).map_err(|error| error.to_string()), want);
        }
    }
}
