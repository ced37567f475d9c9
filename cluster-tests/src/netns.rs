//! A network of our own: every host in a network namespace, one bridge between them, and wires that can be cut and
//! made thin.
//!
//! ```text
//!   outside ──┐
//!   host 1 ───┤ hub (bridge)        192.0.2.10 + host, nowhere but in these namespaces
//!   host 2 ───┤
//!   ...    ───┘
//! ```
//!
//! A cut is silent, as a firewall's or a router's: packets vanish, no carrier is lost, nobody is told. It is made by
//! giving the sender a wrong hardware address of the receiver; the right ones are fixed too, so that nothing has to be
//! asked for after a heal.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::needs::is_root;

/// The host on which no node runs: clients are here.
pub const OUTSIDE: u64 = 0;

/// Hosts that a network may have besides [`OUTSIDE`].
const HOSTS_MAX: u64 = 9;
/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// The beginning of our names; the process id follows.
const PREFIX: &str = "epochlog-";

/// Some namespaces and the wires between them; gone on drop.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    hosts: u64,
}

impl Net {
    /// A network of hosts 1 to `hosts`, and [`OUTSIDE`].
    ///
    /// # Errors
    /// Why it does not work here, for people.
    ///
    /// # Panics
    /// When there are more than nine.
    pub fn new(hosts: u64) -> Result<Net, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(hosts <= HOSTS_MAX, "{hosts} hosts");
        if !is_root() {
            return Err("network namespaces need root".into());
        }
        sweep();
        let prefix = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Net { prefix, hosts };
        let hub = net.hub();
        ip(&["netns", "add", &hub])?;
        batch(&hub, "link add br0 type bridge\nlink set br0 up\n")?;
        for host in OUTSIDE..=hosts {
            let name = net.namespace(host);
            ip(&["netns", "add", &name])?;
            let port = port(host);
            batch(
                &hub,
                &format!(
                    "link add {port} type veth peer name eth0 netns {name} address {}\n\
                     link set {port} master br0 up\n",
                    hardware(host)
                ),
            )?;
            batch(
                &name,
                &format!("address add {}/24 dev eth0\nlink set lo up\nlink set eth0 up\n", net.address(host)),
            )?;
        }
        for from in OUTSIDE..=hosts {
            net.know(from, (OUTSIDE..=hosts).filter(|to| *to != from), hardware)?;
        }
        Ok(net)
    }

    /// Where a host is reached.
    pub fn address(&self, host: u64) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 10 + u8::try_from(host).expect("nine hosts at most"))
    }

    /// The name of a host's namespace, for `ip netns exec`.
    pub fn namespace(&self, host: u64) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// Runs `tell` on a thread that lives outside the hosts, as do the threads and processes that it starts.
    ///
    /// # Panics
    /// When `tell` does.
    pub fn outside<T: Send>(&self, tell: impl FnOnce() -> T + Send) -> T {
        let name = format!("{NAMES}/{}", self.namespace(OUTSIDE));
        let joined = std::thread::scope(|scope| {
            let told = scope.spawn(|| {
                let space = File::open(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                tell()
            });
            told.join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// From now on nothing that `from` sends arrives at `to`.
    ///
    /// # Panics
    /// When it cannot be done; so do the next ones.
    pub fn cut_way(&self, from: u64, to: u64) {
        self.know(from, [to], |_| hardware(99)).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Undoes [`Net::cut_way`].
    pub fn heal_way(&self, from: u64, to: u64) {
        self.know(from, [to], hardware).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Cuts a host off from all other hosts, both ways; [`OUTSIDE`] still reaches it.
    pub fn isolate(&self, host: u64) {
        for other in (1..=self.hosts).filter(|other| *other != host) {
            self.cut_way(host, other);
            self.cut_way(other, host);
        }
    }

    /// Undoes every cut.
    pub fn heal(&self) {
        for from in OUTSIDE..=self.hosts {
            self.know(from, (OUTSIDE..=self.hosts).filter(|to| *to != from), hardware)
                .unwrap_or_else(|why| panic!("{why}"));
        }
    }

    /// Makes the wire of a host carry so many bits a second, each way.
    pub fn thin(&self, host: u64, bits_per_s: u64) {
        let rate = format!("{bits_per_s}bit");
        for (space, device) in [(self.namespace(host), "eth0".into()), (self.hub(), port(host))] {
            // A queue of 400 ms, as a thin line has one, and a burst above the largest segment.
            let shape = ["rate", &rate, "burst", "64kb", "latency", "400ms"];
            let mut args = vec!["-n", &space, "qdisc", "replace", "dev", &device, "root", "tbf"];
            args.extend(shape);
            run("tc", &args).unwrap_or_else(|why| panic!("{why}"));
        }
    }

    /// Sets the hardware addresses under which `from` sends to others.
    fn know(
        &self,
        from: u64,
        to: impl IntoIterator<Item = u64>,
        at: impl Fn(u64) -> String,
    ) -> Result<(), String> {
        let lines: String = to
            .into_iter()
            .map(|to| {
                format!("neigh replace {} lladdr {} dev eth0 nud permanent\n", self.address(to), at(to))
            })
            .collect();
        batch(&self.namespace(from), &lines)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let names = (OUTSIDE..=self.hosts).map(|host| self.namespace(host)).chain([self.hub()]);
        for name in names {
            if let Err(why) = ip(&["netns", "delete", &name]) {
                eprintln!("the namespace {name} stays: {why}");
            }
        }
    }
}

/// Removes the namespaces of processes of ours that were killed before they could.
fn sweep() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            // Another process may sweep as well.
            let _gone = ip(&["netns", "delete", &name]);
        }
    }
}

fn hardware(host: u64) -> String {
    format!("02:00:00:00:00:{host:02}")
}

fn port(host: u64) -> String {
    format!("port{host}")
}

fn ip(args: &[&str]) -> Result<(), String> {
    run("ip", args)
}

/// Some commands of `ip`, one a line, in one namespace.
fn batch(namespace: &str, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]);
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("ip: {error}"))?;
    let told = child.stdin.take().expect("it was asked for").write_all(lines.as_bytes());
    let output = child.wait_with_output().map_err(|error| format!("ip: {error}"))?;
    match told {
        Ok(()) if output.status.success() => Ok(()),
        _ => Err(format!("ip -n {namespace}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::needs::{Need, skip};

    /// Sends `bytes` from outside to host 1 (whose listener was made inside) and gives the time.
    fn carry(to: SocketAddr, listener: &TcpListener, bytes: usize) -> std::io::Result<Duration> {
        let begun = Instant::now();
        let mut sender = TcpStream::connect_timeout(&to, Duration::from_millis(700))?;
        let (receiver, _) = listener.accept()?;
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || sender.write_all(&vec![7; bytes]));
            let got = std::io::copy(&mut (&receiver).take(bytes as u64), &mut std::io::sink());
            sent.join().expect("no panic").and(got)
        })?;
        Ok(begun.elapsed())
    }

    #[test]
    fn wires_carry_and_are_cut_and_made_thin() {
        let net = match Net::new(2) {
            Ok(net) => net,
            Err(why) => return skip(Need::Netns, "a network of our own", &why),
        };
        // A socket stays in the namespace in which it was made.
        let listener = {
            let name = format!("{NAMES}/{}", net.namespace(1));
            let address = net.address(1);
            std::thread::spawn(move || {
                let space = File::open(name).unwrap();
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                TcpListener::bind((address, 0)).unwrap()
            })
            .join()
            .unwrap()
        };
        let to = listener.local_addr().unwrap();
        net.outside(|| {
            assert!(carry(to, &listener, 1000).is_ok());
            net.isolate(1);
            assert!(carry(to, &listener, 1000).is_ok(), "outside still reaches it");
            net.cut_way(1, OUTSIDE);
            assert!(carry(to, &listener, 1000).is_err(), "no answer comes back");
            net.heal();
            assert!(carry(to, &listener, 1000).is_ok());
            net.thin(1, 8_000_000);
            let took = carry(to, &listener, 1 << 20).unwrap();
            assert!(took > Duration::from_millis(700), "1 MiB at 1 MB/s took {took:?}");
        });
    }
}
