//! nftables, iptables by nftables, and the older iptables.

use crate::lab::{Lab, is_inside, sh};

const RULES: &str = "flush ruleset
table inet filter {
  set banned { type ipv4_addr; flags interval; }
  chain f2b-sshd { }
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    tcp dport { 22, 443 } counter accept
    ip saddr @banned drop
    counter reject
  }
  chain forward { type filter hook forward priority 0; policy drop; }
}
";

fn with_rules() -> Lab {
    with_rules_in(Lab::new())
}

fn with_rules_in(mut lab: Lab) -> Lab {
    std::fs::write(lab.path("rules"), RULES).unwrap();
    sh(&format!("nft -f {}", lab.path("rules").display()));
    lab.start(&["firewall"]);
    lab
}

#[test]
fn a_flushed_firewall_is_told_with_who_flushed_it_and_when() {
    if !is_inside("firewall::a_flushed_firewall_is_told_with_who_flushed_it_and_when") {
        return;
    }
    let lab = with_rules();
    sh("nft flush ruleset");
    let finding = lab.told_only("defence.firewall", "high", "emptied: 5 rules gone");
    let evidence = &finding["evidence"];
    // The kernel tells its number and name; where it still runs its program is known as well.
    assert!(evidence["actor"]["executable"]["text"].as_str().unwrap().ends_with("nft"), "{finding:#}");
    assert!(evidence["actor"]["pid"].as_u64() > Some(1), "{finding:#}");
    assert_eq!(evidence["seen_by"], "event");
    assert_eq!(evidence["before"]["tables"]["inet filter"]["chains"]["input"]["drops"], true);
    assert_eq!(finding["attack"][0], "T1562.004");
    lab.forget();
    sh(&format!("nft -f {}", lab.path("rules").display()));
    lab.told_only("defence.firewall", "info", "keeps out more again");
}

#[test]
fn a_firewall_that_is_loosened_by_degrees_is_told_each_time() {
    if !is_inside("firewall::a_firewall_that_is_loosened_by_degrees_is_told_each_time") {
        return;
    }
    let lab = with_rules();
    sh("nft insert rule inet filter input tcp dport 4444 accept");
    lab.told_only("defence.firewall", "medium", "lets more in: 1 rule more");
    lab.forget();
    sh(
        "nft -a list chain inet filter input | sed -n 's/.*reject.*handle //p' | xargs nft delete rule inet filter input handle",
    );
    lab.told_only("defence.firewall", "medium", "blocks less: 1 rule fewer");
    lab.forget();
    sh("nft 'chain inet filter input { policy accept; }'");
    lab.told_only("defence.firewall", "high", "inet filter input no longer drops by default");
    lab.forget();
    sh("nft 'add table ip nat; add chain ip nat prerouting { type nat hook prerouting priority -100; }; \
        add rule ip nat prerouting tcp dport 80 redirect to :8080'");
    lab.told_only("defence.firewall", "medium", "sends traffic elsewhere");
    lab.forget();
    sh("nft 'add table inet filter { flags dormant; }'");
    lab.told("defence.firewall", "high", "inet filter was switched off");
}

#[test]
fn reloads_and_bans_are_silent() {
    if !is_inside("firewall::reloads_and_bans_are_silent") {
        return;
    }
    let mut lab = Lab::new();
    // What settles has two and a half seconds here: on a busy machine half a second passes between two runs of nft.
    lab.setup.haste = 2;
    let lab = with_rules_in(lab);
    let rules = lab.path("rules");
    let events = lab.counter("events");
    // The same rules in one commit, in two (a service that is restarted), and ten times over.
    sh(&format!("for i in 1 2 3 4 5 6 7 8 9 10; do nft -f {}; done", rules.display()));
    sh(&format!("nft flush ruleset; nft -f {}", rules.display()));
    lab.wait("the events", |lab| lab.counter("events") > events);
    // Bans come and go, in sets and in chains of their own.
    sh(
        "nft add element inet filter banned '{ 192.0.2.1 }'; nft add element inet filter banned '{ 192.0.2.2 }'",
    );
    sh("nft add rule inet filter f2b-sshd ip saddr 192.0.2.7 reject");
    sh("nft flush chain inet filter f2b-sshd");
    lab.wait("the last of them", |lab| lab.counter("events") > events + 1);
    assert!(
        lab.findings().iter().all(|finding| finding["rule"] != "defence.firewall"),
        "{:#?}",
        lab.findings()
    );
    // A port more in a rule that was there.
    sh(&format!("sed 's/443/443, 4444/' {0} > {0}.more; nft -f {0}.more", rules.display()));
    lab.told_only("defence.firewall", "low", "were replaced by others");
}

#[test]
fn rules_that_went_while_the_agent_was_down_are_told_at_the_next_start() {
    if !is_inside("firewall::rules_that_went_while_the_agent_was_down_are_told_at_the_next_start") {
        return;
    }
    let mut lab = with_rules();
    lab.stop();
    sh("nft flush ruleset");
    lab.start(&["firewall"]);
    let finding = lab.told_only("defence.firewall", "high", "emptied");
    let evidence = &finding["evidence"];
    assert_eq!((&evidence["while_agent_was_down"], &evidence["seen_by"]), (&true.into(), &"start".into()));
    assert!(evidence["window"]["from"].as_str() < evidence["window"]["to"].as_str(), "{evidence:#}");
    // Told once, and remembered as it is now.
    lab.stop();
    lab.forget();
    sh(&format!("nft -f {}", lab.path("rules").display()));
    lab.start(&["firewall"]);
    lab.told_only("defence.firewall", "info", "keeps out more again");
}

#[test]
fn iptables_by_nftables_is_the_same_firewall() {
    if !is_inside("firewall::iptables_by_nftables_is_the_same_firewall") {
        return;
    }
    let mut lab = Lab::new();
    sh(
        "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-nft -A INPUT -j REJECT",
    );
    lab.start(&["firewall"]);
    sh("iptables-nft -P INPUT ACCEPT");
    lab.told_only("defence.firewall", "high", "ip filter INPUT no longer drops");
    lab.forget();
    sh("iptables-nft -F");
    lab.told_only("defence.firewall", "high", "emptied: 2 rules gone");
}

#[test]
fn the_older_iptables_is_read_as_well() {
    if !is_inside("firewall::the_older_iptables_is_read_as_well") {
        return;
    }
    if !std::path::Path::new("/proc/self/net/ip_tables_names").exists() {
        eprintln!("this kernel has no older iptables");
        return;
    }
    let mut lab = Lab::new();
    sh(
        "iptables-legacy -P INPUT DROP; iptables-legacy -N OWN; iptables-legacy -A OWN -s 192.0.2.0/24 -j DROP; \
        iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-legacy -A INPUT -j OWN",
    );
    sh("ip6tables-legacy -A INPUT -s 2001:db8::/32 -j REJECT");
    lab.start(&["xtables"]);
    sh("iptables-legacy -L -v -n > /dev/null; iptables-legacy -D OWN 1");
    lab.told_only("defence.firewall", "high", "(iptables-legacy) blocks less: 1 rule fewer");
    lab.forget();
    sh("iptables-legacy -P INPUT ACCEPT");
    lab.told_only("defence.firewall", "high", "filter input no longer drops by default");
    lab.forget();
    sh("ip6tables-legacy -F");
    lab.told_only("defence.firewall", "high", "(ip6tables-legacy) was emptied: 1 rule gone");
}
