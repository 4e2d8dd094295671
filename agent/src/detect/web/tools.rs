//! Tools that look for holes and say who they are, and files that only they ask for.

/// Names in the user agents of scanners.
const NAMES: [&str; 30] = [
    "sqlmap",
    "nikto",
    "nmap scripting",
    "masscan",
    "zgrab",
    "gobuster",
    "dirbuster",
    "dirb/",
    "wfuzz",
    "ffuf",
    "fuzz faster",
    "nuclei",
    "acunetix",
    "nessus",
    "openvas",
    "wpscan",
    "w3af",
    "arachni",
    "feroxbuster",
    "whatweb",
    "jorgee",
    "zmeu",
    "morfeus",
    "netsparker",
    "commix",
    "havij",
    "joomscan",
    "skipfish",
    "grabber",
    "hydra",
];

/// The scanner that a user agent names.
pub fn scanner(agent: &str) -> Option<&'static str> {
    let agent: String = agent.chars().take(512).collect::<String>().to_ascii_lowercase();
    NAMES.into_iter().find(|name| agent.contains(name)).map(|name| name.trim_end_matches('/'))
}
