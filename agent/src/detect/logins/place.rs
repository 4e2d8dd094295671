//! Where the lines stand that led to a finding: the first and the last of them.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::sense::logins::Place;

/// The first and the last places, with the number of those between that were left out.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Places {
    first: Vec<Place>,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    last: VecDeque<Place>,
    #[serde(default)]
    left_out: u64,
}

impl Places {
    /// Adds one, keeping at most `each` of the first and as many of the last.
    pub fn add(&mut self, place: &Place, each: usize) {
        if self.first.last() == Some(place) || self.last.back() == Some(place) {
            return;
        }
        if self.first.len() < each {
            self.first.push(place.clone());
            return;
        }
        if self.last.len() >= each.max(1) {
            self.last.pop_front();
            self.left_out += 1;
        }
        self.last.push_back(place.clone());
    }

    /// Puts `places` and the number left out into the evidence.
    pub fn show(&self, evidence: &mut serde_json::Map<String, Value>) {
        let all: Vec<&Place> = self.first.iter().chain(&self.last).collect();
        evidence.insert("places".to_owned(), json!(all));
        evidence.insert("places_left_out".to_owned(), json!(self.left_out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_stay() {
        let mut places = Places::default();
        for line in 1..=10 {
            places.add(&Place::Line { line }, 3);
            places.add(&Place::Line { line }, 3);
        }
        let mut evidence = serde_json::Map::new();
        places.show(&mut evidence);
        let lines: Vec<u64> = evidence["places"]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place["line"].as_u64().unwrap())
            .collect();
        assert_eq!((lines, evidence["places_left_out"].as_u64()), (vec![1, 2, 3, 8, 9, 10], Some(4)));
    }
}
