//! An isolation while what it stands on changes: the host's clock, and the lease of its own address.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use picket_tests::cable::Cable;
use picket_tests::collector::Collector;
use picket_tests::process::Running;
use picket_tests::site::{COLLECTOR, Site, VICTIM, cable};
use picket_tests::{wait_for, wait_for_within};

#[test]
fn a_clock_that_jumps_neither_ends_nor_lengthens_it() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let offset = dir.path().join("offset");
    std::fs::write(&offset, "+0").unwrap();
    std::fs::set_permissions(&offset, PermissionsExt::from_mode(0o644)).unwrap();
    site.agent.stop();
    site.agent.set_clock_file(&offset);
    site.agent.resume();
    site.agent.wait_until_ready();
    let ordered = Instant::now();
    let command = site.order("isolate", &["isolate", "--lease", "60s"]);
    site.wait(&command, "confirmed");
    let begin = Instant::now();
    // The second is far beyond the lease.
    for (shift, told) in [("-1800", "set back by 30 min"), ("+3600", "set forward by 90 min")] {
        std::fs::write(&offset, shift).unwrap();
        collector.wait_finding("host.clock", told);
        assert!(begin.elapsed() < Duration::from_secs(50), "too slow to tell whether it lasts");
        assert_eq!(site.pings(), [false, false], "{shift}");
    }
    wait_for_within("the lease to end", Duration::from_secs(120), || {
        (site.pings() == [true, true]).then_some(())
    });
    // It begins after it is ordered and before it is confirmed, which may be seconds later.
    let (lasted, since_order) = (begin.elapsed(), ordered.elapsed());
    assert!(since_order > Duration::from_secs(59), "{since_order:?}");
    assert!(lasted < Duration::from_secs(66), "{lasted:?}");
    site.wait(&command, "expired");
    assert_eq!(site.outcomes(&command), ["received", "applied", "confirmed", "expired"]);
}

#[test]
fn the_hosts_address_is_renewed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let host = format!("--dhcp-host={},{VICTIM}", Cable::NEAR_MAC);
    let leases = format!("--dhcp-leasefile={}", path("leases"));
    let words = ["--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=far0", "--bind-interfaces"];
    let range =
        ["--dhcp-range=10.199.0.50,10.199.0.60,255.255.255.0,2m", "--dhcp-authoritative", "--no-ping"];
    let mut server = Command::new("dnsmasq");
    server.args(words).args(range).args([&host, &leases, "--user=root", "--pid-file="]);
    let server_log = dir.path().join("dnsmasq.log");
    let _server = Running::start("dnsmasq", &mut server, &server_log);
    // It asks its server again, and him alone, every few seconds; the address it has already.
    let every = "supersede dhcp-renewal-time 3;\nsupersede dhcp-rebinding-time 100;\n";
    std::fs::write(path("dhclient.conf"), every).unwrap();
    let mut client = site.on_victim(&["dhclient", "-d", "-4", "-sf", "/bin/true"]);
    client.args(["-cf", &path("dhclient.conf"), "-lf", &path("client"), "-pf", &path("pid"), "near0"]);
    let _client = Running::start("dhclient", &mut client, &dir.path().join("dhclient.log"));
    let renewals = || {
        let log = std::fs::read_to_string(&server_log).unwrap_or_default();
        log.lines().filter(|line| line.contains("DHCPACK(far0)") && line.contains(VICTIM)).count()
    };
    wait_for("a lease and its renewal", || (renewals() >= 2).then_some(()));
    let command = site.order("isolate", &["isolate", "--lease", "10m"]);
    site.wait(&command, "confirmed");
    let before = renewals();
    wait_for("two renewals while it is isolated", || (renewals() >= before + 2).then_some(()));
    assert_eq!(site.pings(), [false, false]);
    site.agent.run(&["release"]);
}
