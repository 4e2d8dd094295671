//! What an interpreter was started with: to the kernel it is the interpreter alone that runs.

/// Names of interpreters; versions follow.
const INTERPRETERS: &[&str] = &["python", "platform-python", "perl", "ruby", "node"];

/// The script that an interpreter was started with: the first argument, after options without an argument of their own.
pub fn first_script<'a>(
    executable: &[u8],
    mut arguments: impl Iterator<Item = &'a [u8]>,
) -> Option<&'a [u8]> {
    if !is_interpreter(executable) {
        return None;
    }
    let flag = |argument: &&[u8]| {
        argument.strip_prefix(b"-").is_some_and(|letters| {
            !letters.is_empty() && letters.iter().all(|letter| b"sEIPuBwTW".contains(letter))
        })
    };
    arguments.next()?;
    arguments.find(|argument| !flag(argument)).filter(|script| script.starts_with(b"/"))
}

/// Whether the program is an interpreter, by its name.
pub fn is_interpreter(executable: &[u8]) -> bool {
    let name = executable.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    INTERPRETERS.iter().any(|known| name.starts_with(known.as_bytes()))
}
