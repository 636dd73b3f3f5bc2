//! The images that later tests run as users' applications: as nobody special, without a setting.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use signet_cluster::{Namespace, TOOLBOX, test};

/// One pod of the image, refused by the kubelet if it would run as root, behind a Service of its name.
async fn serve(namespace: &Namespace, name: &str, port: u16) -> Result<()> {
    serve_with(namespace, name, port, "").await
}

/// [`serve`] with these lines in the container.
async fn serve_with(namespace: &Namespace, name: &str, port: u16, more: &str) -> Result<()> {
    let yaml = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true}}
  containers:
  - name: {name}
    image: signet.test/{name}:1
    imagePullPolicy: IfNotPresent
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
    readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
{more}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}
"
    );
    namespace.apply(&yaml).await?;
    namespace.wait_endpoints(name, 1).await
}

/// What a client pod of the toolbox gets; again until DNS knows the name.
async fn ask(namespace: &Namespace, argv: &[&str]) -> Result<String> {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true}
  containers: [{name: toolbox, image: TOOLBOX, imagePullPolicy: IfNotPresent}]
";
    namespace.apply(&pod.replace("TOOLBOX", TOOLBOX)).await?;
    namespace.wait_ready("client").await?;
    let what = format!("an answer to {argv:?}");
    namespace.eventually(&what, async || namespace.exec("client", "toolbox", argv).await?.ok()).await
}

#[tokio::test]
async fn nginx_runs_as_nobody_special_and_answers_curl() -> Result<()> {
    test(async |namespace| {
        serve(namespace, "nginx", 8080).await?;
        let answer = ask(namespace, &["curl", "-sS", "-m", "10", "http://nginx:8080/"]).await?;
        assert!(answer.starts_with("nginx on nginx for "), "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn redis_runs_as_nobody_special_and_keeps_a_value() -> Result<()> {
    test(async |namespace| {
        serve(namespace, "redis", 6379).await?;
        assert_eq!(ask(namespace, &["redis-cli", "-h", "redis", "ping"]).await?, "PONG");
        assert_eq!(ask(namespace, &["redis-cli", "-h", "redis", "set", "key", "value"]).await?, "OK");
        assert_eq!(ask(namespace, &["redis-cli", "-h", "redis", "get", "key"]).await?, "value");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn postgres_runs_as_nobody_special_and_answers_a_query() -> Result<()> {
    test(async |namespace| {
        serve(namespace, "postgres", 5432).await?;
        let query = ["psql", "-h", "postgres", "-U", "postgres", "-tAc", "select 6 * 7"];
        assert_eq!(ask(namespace, &query).await?, "42");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn curl_runs_as_a_client_pod_and_tells_its_exit_status() -> Result<()> {
    test(async |namespace| {
        serve(namespace, "nginx", 8080).await?;
        let service = namespace.api::<k8s_openapi::api::core::v1::Service>().get("nginx").await?;
        let address = service.spec.unwrap().cluster_ip.unwrap();
        let url = format!("http://{address}:8080/");
        let answer = namespace.run_client(TOOLBOX, &["curl", "-sS", "-m", "10", &url]).await?.ok()?;
        assert!(answer.starts_with("nginx on nginx for "), "{answer}");
        let wrong = format!("http://{address}:8080/");
        let refused = ["curl", "-sS", "-m", "10", "--max-filesize", "1", &wrong];
        assert_eq!(namespace.run_client(TOOLBOX, &refused).await?.status, 63, "file size exceeded (curl(1))");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn echo_basic_runs_as_nobody_special_and_tells_what_it_was_asked() -> Result<()> {
    test(async |namespace| {
        serve(namespace, "echo-basic", 3000).await?;
        let answer = ask(namespace, &["curl", "-sS", "-m", "10", "http://echo-basic:3000/some/path"]).await?;
        assert!(answer.contains(r#""path": "/some/path""#), "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn jupyterlab_runs_as_nobody_special_and_starts_a_kernel_for_who_has_its_token() -> Result<()> {
    test(async |namespace| {
        let token = "    env: [{name: JUPYTER_TOKEN, value: sesame}]";
        serve_with(namespace, "jupyterlab", 8888, token).await?;
        let kernels = ["curl", "-sS", "-m", "20", "-X", "POST", "http://jupyterlab:8888/api/kernels"];
        let answer = ask(namespace, &kernels).await?;
        assert!(answer.contains(r#""message""#), "without its token: {answer}");
        let answer = ask(namespace, &[&kernels[..], &["-H", "Authorization: token sesame"]].concat()).await?;
        assert!(answer.contains(r#""name": "python3""#), "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn wsgidav_runs_as_nobody_special_and_keeps_a_file() -> Result<()> {
    test(async |namespace| {
        serve(namespace, "wsgidav", 8080).await?;
        let (url, words) = ("http://wsgidav:8080/note.txt", "words to keep");
        let put =
            ["curl", "-sS", "-m", "10", "-w", "%{http_code}", "-o", "/dev/null", "-X", "PUT", "-d", words];
        assert_eq!(ask(namespace, &[&put[..], &[url]].concat()).await?, "201");
        assert_eq!(ask(namespace, &["curl", "-sS", "-m", "10", url]).await?, words);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn our_own_image_runs_as_nobody_special_and_tells_its_version() -> Result<()> {
    test(async |namespace| {
        let pod = "
apiVersion: v1
kind: Pod
metadata: {name: signet}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: signet
    image: signet.test/signet:dev
    args: [version]
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
";
        namespace.apply(pod).await?;
        let ended =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
        namespace.wait_for("signet", "to end well", ended).await?;
        let said = namespace.logs("signet", "signet").await?;
        assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
        Ok(())
    })
    .await
}
