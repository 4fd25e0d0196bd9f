//! The text format of Java properties files, as Kafka's `server.properties` is written.

/// A property, and the line of the text on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Reads `key=value`, `key: value` and `key value` lines; `#` and `!` begin comments, a trailing backslash continues a line.
pub(crate) fn parse(text: &str) -> Vec<Property> {
    let mut properties = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let first = line.trim_start();
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while ends_in_continuation(&logical) {
            logical.pop();
            let Some((_, more)) = lines.next() else { break };
            logical.push_str(more.trim_start());
        }
        let (key, value) = split(&logical);
        properties.push(Property { line: at + 1, key: unescape(key), value: unescape(value.trim_end()) });
    }
    properties
}

fn ends_in_continuation(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// Splits at the first separator that is not escaped: `=`, `:` or white space, and the white space around it.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let separates = !escaped && (c == '=' || c == ':' || c.is_whitespace());
        escaped = c == '\\' && !escaped;
        separates
    });
    let Some(end) = end else { return (line, "") };
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start())
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let code: String = chars.by_ref().take(4).collect();
                plain.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_java_reads() {
        let check = |text: &str, expected: &[(usize, &str, &str)]| {
            let found = parse(text);
            let found: Vec<(usize, &str, &str)> =
                found.iter().map(|p| (p.line, p.key.as_str(), p.value.as_str())).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("", &[]);
        check("# a\n! b\n\n  node.id=1\n", &[(4, "node.id", "1")]);
        check("a = b = c", &[(1, "a", "b = c")]);
        check("a: b\nc d", &[(1, "a", "b"), (2, "c", "d")]);
        check("a=b\\\n   c\nd=e", &[(1, "a", "bc"), (3, "d", "e")]);
        check("path=C:\\\\x\\ty", &[(1, "path", "C:\\x\ty")]);
        check("k\\=1=v", &[(1, "k=1", "v")]);
        check("u=\\u0041", &[(1, "u", "A")]);
        check("lonely", &[(1, "lonely", "")]);
        check("tail\\", &[(1, "tail", "")]);
    }
}
