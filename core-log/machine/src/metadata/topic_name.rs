//! Which names a topic may have.

/// The longest name: with `-` and a partition number it must still be the name of a directory.
pub const MAX_TOPIC_NAME_LENGTH: usize = 249;

/// Judges a topic name.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn validate_topic_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Err("The topic name is empty.".into())
    } else if name == "." || name == ".." {
        Err(format!("The topic name cannot be {name}."))
    } else if name.len() > MAX_TOPIC_NAME_LENGTH {
        Err(format!(
            "The topic name has {} characters, more than {MAX_TOPIC_NAME_LENGTH}.",
            name.chars().count()
        ))
    } else if let Some(bad) = name.chars().find(|c| !legal(*c)) {
        Err(format!(
            "The topic name {name} contains {bad:?}; only ASCII letters and digits, '.', '_' and '-' are allowed."
        ))
    } else {
        Ok(())
    }
}

/// Whether two names differ only in `.` and `_`, which metrics cannot tell apart.
pub(super) fn collide(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| plain(a) == plain(b))
}

/// Whether `name` could collide with a name other than itself.
pub(super) fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_kafka_judges_them() {
        let longest = "x".repeat(MAX_TOPIC_NAME_LENGTH);
        let longer = "x".repeat(MAX_TOPIC_NAME_LENGTH + 1);
        for good in ["a", "a.b_c-D9", "...", "__consumer_offsets", longest.as_str()] {
            assert_eq!(validate_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a:b", longer.as_str()] {
            assert!(validate_topic_name(bad).is_err(), "{bad}");
        }
        assert!(collide("a.b", "a_b") && collide("a.b", "a.b"));
        assert!(!collide("a.b", "a-b") && !collide("a.b", "a.bc"));
    }
}
