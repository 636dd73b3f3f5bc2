//! What passes on a link, recorded by tcpdump, and whether something was said there in plain sight.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::eventually::{SOON, eventually};

/// A recording that goes on, of an interface of this thread's network namespace.
pub struct Tap {
    tcpdump: Child,
    said: BufReader<ChildStderr>,
    file: PathBuf,
    /// Somebody on the far side of the link: a packet to it marks the end.
    far: IpAddr,
}

/// A recording: the pcap file whole. No frame of it was dropped.
pub struct Tapped(Vec<u8>);

impl Tap {
    /// From when this returns, every packet is recorded.
    pub async fn start(interface: &str, far: IpAddr) -> io::Result<Self> {
        let file = std::env::temp_dir().join(format!("signet-tap-{}-{interface}", std::process::id()));
        let mut tcpdump = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "tcpdump", "-i", interface, "-U", "-n", "--immediate-mode"])
            // As root: a change of user would undo the death signal. A large buffer: what is dropped proves nothing.
            .args(["-Z", "root", "-s", "0", "-B", "65536", "-w"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = tcpdump.stderr.take().ok_or_else(|| io::Error::other("stderr is piped"))?;
        let mut said = BufReader::new(stderr);
        let listening = async {
            let mut line = String::new();
            while said.read_line(&mut line).await? > 0 {
                if line.contains("listening on") {
                    return Ok(());
                }
            }
            Err(io::Error::other(format!("tcpdump ended: {line}")))
        };
        timeout(SOON, listening).await.map_err(io::Error::other)??;
        Ok(Self { tcpdump, said, file, far })
    }

    /// Ends the recording. Everything that passed before this call is in it.
    pub async fn stop(mut self) -> io::Result<Tapped> {
        // Packets are recorded in their order: when the mark has been, so has everything before it.
        let mark = format!("{:032x}", fastrand::u128(..));
        let any: IpAddr = if self.far.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        UdpSocket::bind((any, 0))?.send_to(mark.as_bytes(), SocketAddr::new(self.far, DISCARD))?;
        let file = self.file.clone();
        eventually("the tap to record its mark", SOON, async || {
            Tapped(fs::read(&file).unwrap_or_default()).says(mark.as_bytes()).then_some(())
        })
        .await;
        let pid = self.tcpdump.id().and_then(|pid| i32::try_from(pid).ok());
        kill(Pid::from_raw(pid.ok_or_else(|| io::Error::other("tcpdump has ended"))?), Signal::SIGINT)?;
        let mut words = String::new();
        timeout(SOON, self.said.read_to_string(&mut words)).await.map_err(io::Error::other)??;
        if !words.contains("\n0 packets dropped by kernel") {
            return Err(io::Error::other(format!(
                "packets were dropped, this recording proves nothing: {words}"
            )));
        }
        Ok(Tapped(fs::read(&self.file)?))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file); // never made, or some megabytes of /tmp
    }
}

impl Tapped {
    /// Whether these bytes passed in plain sight. They have to fit into one packet.
    pub fn says(&self, bytes: &[u8]) -> bool {
        self.0.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Of the whole recording, headers included.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// RFC 863; whether anybody listens there does not matter.
const DISCARD: u16 = 9;
