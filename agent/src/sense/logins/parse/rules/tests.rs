use super::super::parsers::{SHIPPED, check_text};

#[test]
fn every_shipped_file_is_what_it_claims() {
    let mut problems = String::new();
    for (name, text) in SHIPPED {
        let (service, found) = check_text(text);
        let named = service.is_some_and(|service| service.name == *name);
        if !named {
            problems.push_str(&format!("{name}.toml does not describe {name}\n"));
        }
        for problem in found {
            problems.push_str(&format!("agent/parsers/{name}.toml:{}: {}\n", problem.line, problem.message));
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
}
