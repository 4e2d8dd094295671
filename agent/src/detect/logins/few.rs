//! One thing or more, of which the first needs no memory of its own: in a flood nearly all parties are seen once.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Things in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Few<T> {
    /// None only while `rest` is empty, too.
    first: Option<T>,
    rest: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { first: None, rest: Vec::new() }
    }
}

impl<T> Few<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds one at the end.
    pub fn push(&mut self, thing: T) {
        if self.first.is_none() {
            self.first = Some(thing);
        } else {
            self.rest.push(thing);
        }
    }

    /// Adds one at the end; of more than `max` the first go.
    pub fn push_newest(&mut self, thing: T, max: usize) {
        while self.len() >= max.max(1) {
            self.first = (!self.rest.is_empty()).then(|| self.rest.remove(0));
        }
        self.push(thing);
    }

    /// The newest.
    pub fn last(&self) -> Option<&T> {
        self.rest.last().or(self.first.as_ref())
    }

    /// From the first to the newest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.first.iter_mut().chain(&mut self.rest)
    }

    /// Keeps those for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let first = self.first.take().filter(|first| keep(first));
        self.rest.retain(keep);
        self.first = match first {
            None if !self.rest.is_empty() => Some(self.rest.remove(0)),
            first => first,
        };
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.first = None;
        self.rest.clear();
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(things: I) -> Self {
        let mut things = things.into_iter();
        Self { first: things.next(), rest: things.collect() }
    }
}

impl<T: Serialize> Serialize for Few<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_holds_what_a_plain_list_holds(steps in proptest::collection::vec((0u8..3, 0u8..20), 0..60)) {
            let (mut few, mut list) = (Few::default(), Vec::new());
            for (what, thing) in steps {
                match what {
                    0 => { few.push(thing); list.push(thing); }
                    1 => {
                        few.push_newest(thing, 5);
                        list.push(thing);
                        list.drain(..list.len().saturating_sub(5));
                    }
                    _ => { few.retain(|kept| *kept != thing); list.retain(|kept| *kept != thing); }
                }
                proptest::prop_assert_eq!(few.iter().copied().collect::<Vec<_>>(), list.clone());
                proptest::prop_assert_eq!((few.len(), few.is_empty(), few.last()), (list.len(), list.is_empty(), list.last()));
                let text = serde_json::to_string(&few).unwrap();
                proptest::prop_assert_eq!(&text, &serde_json::to_string(&list).unwrap());
                proptest::prop_assert_eq!(&serde_json::from_str::<Few<u8>>(&text).unwrap(), &few);
            }
        }
    }
}
