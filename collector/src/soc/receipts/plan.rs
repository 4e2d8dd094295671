//! Plans of receipts (`--dry-run`) for people: their sentences line by line, and those of a playbook step by step.

use serde_json::Value;

use super::super::Session;
use super::super::client::Client;
use super::super::error::SocError;
use super::super::follow::{Filters, newest};
use super::super::screen::{Cell, Paint, Screen};

/// The action of a command that orders one.
pub(in crate::soc) const ACTION: &str = "plan";
/// Hosts whose plans are printed after a command is answered; more are in `soc receipts`.
const HOSTS_MAX: usize = 20;

/// Prints the plans of all hosts of a command.
pub(in crate::soc) async fn list(
    session: &mut Session,
    client: &Client,
    filters: &Filters,
) -> Result<(), SocError> {
    let full = [filters.as_slice(), &[("full", Some("true".to_owned()))]].concat();
    let (receipts, _) = newest(client, &full, HOSTS_MAX).await?;
    for receipt in receipts.iter().rev() {
        let Some(body) = receipt.body.as_ref().filter(|body| lines(body).is_some()) else { continue };
        session.screen.line("")?;
        session.screen.field("host", format!("{} ({})", receipt.hostname, receipt.agent))?;
        print(&mut session.screen, body)?;
    }
    if receipts.len() == HOSTS_MAX {
        session.screen.line("\nOf more hosts: soc receipts --command ID --full")?;
    }
    Ok(())
}

/// Prints the plan of a receipt, if it has one.
pub(in crate::soc) fn print(screen: &mut Screen, body: &Value) -> Result<(), SocError> {
    let Some(lines) = lines(body) else { return Ok(()) };
    let steps = steps(body);
    for (at, line) in lines.iter().enumerate() {
        screen.field(if at == 0 { "plan" } else { "" }, *line)?;
        let Some(step) = steps.get(at) else { continue };
        // The first sentence is in the line of the step itself.
        for more in texts(step.pointer("/plan/lines")).into_iter().skip(1) {
            screen.field("", format!("    {more}"))?;
        }
    }
    if let Some(because) = body.pointer("/detail/rung_because").and_then(Value::as_str) {
        let rung = body.pointer("/detail/rung").and_then(Value::as_str).unwrap_or("-");
        let text = format!("by {rung}, since {because}");
        screen.field_cell("firewall", &Cell::new(text).paint(Paint::Yellow))?;
    }
    Ok(())
}

/// The receipt without the sentences of its plan, which were printed.
pub(in crate::soc) fn without_lines(body: &Value) -> Value {
    let mut body = body.clone();
    let drop_lines = |plan: Option<&mut Value>| {
        if let Some(plan) = plan.and_then(Value::as_object_mut) {
            plan.remove("lines");
        }
    };
    let steps = body.pointer_mut("/detail/plan/data/steps").and_then(Value::as_array_mut);
    steps.into_iter().flatten().for_each(|step| drop_lines(step.get_mut("plan")));
    drop_lines(body.pointer_mut("/detail/plan"));
    body
}

fn lines(body: &Value) -> Option<Vec<&str>> {
    let lines = texts(body.pointer("/detail/plan/lines"));
    (!lines.is_empty()).then_some(lines)
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn steps(body: &Value) -> &[Value] {
    body.pointer("/detail/plan/data/steps").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_sentences_of_a_plan_are_left_out_of_the_tree_and_nothing_else() {
        let steps = json!([{ "step": "cut", "plan": { "lines": ["b"], "data": 2 } }, { "step": "bad", "refused": "c" }]);
        let body =
            json!({ "title": "t", "detail": { "plan": { "lines": ["a"], "data": { "steps": steps } } } });
        assert_eq!(lines(&body), Some(vec!["a"]));
        let left = json!([{ "step": "cut", "plan": { "data": 2 } }, { "step": "bad", "refused": "c" }]);
        let left = json!({ "title": "t", "detail": { "plan": { "data": { "steps": left } } } });
        assert_eq!(without_lines(&body), left);
        // What a host may say that is no agent of ours.
        for other in [json!(null), json!({ "detail": { "plan": [1], "data": "x" } }), json!("text")] {
            assert_eq!((lines(&other), without_lines(&other)), (None, other.clone()));
        }
    }
}
