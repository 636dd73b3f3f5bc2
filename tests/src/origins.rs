//! Origins as people run them, nginx, gunicorn and node, each of which writes a line for every request that it took
//! (packages: scripts/apt.sh, scripts/origins.sh). `origins/` has what they run. Each answers with method and target.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::unprivileged::{Server, Unprivileged};

/// A running one; its log is read from the user's home.
pub struct Origin {
    pub name: &'static str,
    seen: PathBuf,
    /// What it says about requests that it could not read.
    complaints: Option<(PathBuf, &'static str)>,
    _server: Server,
}

/// A request as an origin took it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Seen {
    /// X-Request-Id, which is the gateway's word.
    pub id: String,
    pub method: String,
    pub target: String,
    /// As Latin-1.
    pub body: String,
    /// It came to its end.
    pub whole: bool,
}

impl Origin {
    /// In the order in which they ended. What the origin itself refused is among them, without an id.
    pub fn seen(&self) -> Vec<Seen> {
        let text = fs::read_to_string(&self.seen).unwrap_or_default();
        let line = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{} wrote {line:?}: {e}", self.name))
        };
        let mut seen: Vec<Seen> =
            text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(line).collect();
        if let Some((log, words)) = &self.complaints {
            let text = fs::read_to_string(log).unwrap_or_default();
            let refused = text.lines().filter(|line| line.contains(words));
            seen.extend(refused.map(|line| Seen {
                id: String::new(),
                method: String::new(),
                target: String::new(),
                body: line.to_owned(),
                whole: true,
            }));
        }
        seen
    }
}

pub async fn nginx(user: &Unprivileged, at: SocketAddr) -> io::Result<Origin> {
    let config = include_str!("origins/nginx.conf")
        .replace("HOME", &user.home.display().to_string())
        .replace("LISTEN", &at.to_string());
    let config = user.write("nginx.conf", &config)?;
    let mut nginx = user.command("nginx");
    nginx.args(["-e", "stderr", "-c"]).arg(config);
    let _server = user.server("nginx", nginx, &[at]).await?;
    Ok(Origin { name: "nginx", seen: user.home.join("nginx.seen"), complaints: None, _server })
}

/// With threads, since its default workers serve one request for each connection.
pub async fn gunicorn(user: &Unprivileged, at: SocketAddr) -> io::Result<Origin> {
    let (library, seen) = (user.home.join("gunicorn"), user.home.join("gunicorn.seen"));
    copy(&tools()?.join("origins"), &library)?; // below /root it is closed to the user
    user.write("app.py", include_str!("origins/app.py"))?;
    let mut gunicorn = user.command("env");
    gunicorn.arg(format!("PYTHONPATH={}", library.display())).arg(format!("SEEN={}", seen.display()));
    gunicorn.args(["python3", "-m", "gunicorn", "--bind", &at.to_string(), "--worker-class", "gthread"]);
    gunicorn.args(["--threads", "16", "--keep-alive", "30", "app:app"]);
    let _server = user.server("gunicorn", gunicorn, &[at]).await?;
    let complaints = Some((user.home.join("gunicorn.log"), "Invalid "));
    Ok(Origin { name: "gunicorn", seen, complaints, _server })
}

pub async fn node(user: &Unprivileged, at: SocketAddr) -> io::Result<Origin> {
    let (script, seen) =
        (user.write("server.js", include_str!("origins/server.js"))?, user.home.join("node.seen"));
    let mut node = user.command("node");
    node.arg(script).arg(&seen).arg(at.ip().to_string()).arg(at.port().to_string());
    let _server = user.server("node", node, &[at]).await?;
    Ok(Origin { name: "node", seen, complaints: None, _server })
}

/// Where scripts install programs of others.
fn tools() -> io::Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache/signet/tools"));
    let tools = env::var_os("SIGNET_TOOLS").map(PathBuf::from).or_else(home);
    tools.filter(|tools| tools.join("origins").is_dir()).ok_or_else(|| {
        io::Error::other("no gunicorn in $SIGNET_TOOLS/origins; scripts/origins.sh installs it")
    })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), &to)?),
        }
    }
    Ok(())
}
