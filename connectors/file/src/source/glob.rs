//! Paths with `*`, `?`, `[a-z]` and `**`, expanded by walking from the part that has none of them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

/// How deep `**` descends.
const MAX_DEPTH: usize = 32;

/// Files that match any of `include` and none of `exclude`, sorted. A folder that cannot be listed because it is not there has none.
///
/// # Errors
/// When a folder that exists cannot be listed.
pub(crate) fn expand(include: &[String], exclude: &[String]) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for pattern in include {
        let parts: Vec<_> = Path::new(pattern).components().collect();
        walk(PathBuf::new(), &parts, 0, &mut found)?;
    }
    let exclude: Vec<Vec<Component<'_>>> =
        exclude.iter().map(|pattern| Path::new(pattern).components().collect()).collect();
    found.retain(|path| {
        let parts: Vec<_> = path.components().collect();
        !exclude.iter().any(|pattern| path_matches(pattern, &parts))
    });
    Ok(found)
}

/// The folders that a change must be watched in: for each pattern the one before its first wildcard, and the folders below
/// that its wildcards reach now.
pub(crate) fn folders(include: &[String], files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let literal = include.iter().map(|pattern| {
        let parts = Path::new(pattern).components();
        let prefix: PathBuf = parts.take_while(|part| !has_wildcard(part)).collect();
        if prefix.as_os_str() == pattern.as_str() {
            prefix.parent().map(Path::to_path_buf).unwrap_or_default()
        } else {
            prefix
        }
    });
    let parents = files.iter().filter_map(|file| file.parent().map(Path::to_path_buf));
    let or_here = |folder: PathBuf| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    literal.chain(parents).map(or_here).collect()
}

/// The pattern that matches exactly this text.
pub(crate) fn escape(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, '*' | '?' | '[') { format!("[{c}]") } else { c.to_string() })
        .collect()
}

fn walk(at: PathBuf, parts: &[Component<'_>], depth: usize, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        if at.is_file() {
            found.insert(at);
        }
        return Ok(());
    };
    if depth > MAX_DEPTH {
        return Ok(());
    }
    if !has_wildcard(part) {
        return walk(at.join(part), rest, depth, found);
    }
    if text(part) == "**" {
        walk(at.clone(), rest, depth, found)?;
        for entry in entries(&at)? {
            if entry.is_dir() {
                walk(entry, parts, depth + 1, found)?;
            }
        }
        return Ok(());
    }
    for entry in entries(&at)? {
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name_matches(text(part).as_bytes(), name.as_bytes()) && (rest.is_empty() || entry.is_dir()) {
            walk(entry, rest, depth + 1, found)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let at = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let listing = match std::fs::read_dir(at) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        listing => listing?,
    };
    listing.map(|entry| Ok(folder.join(entry?.file_name()))).collect()
}

fn text<'a>(part: &'a Component<'_>) -> std::borrow::Cow<'a, str> {
    part.as_os_str().to_string_lossy()
}

fn has_wildcard(part: &Component<'_>) -> bool {
    text(part).contains(['*', '?', '['])
}

fn path_matches(pattern: &[Component<'_>], path: &[Component<'_>]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((part, rest)), _) if text(part) == "**" => {
            path_matches(rest, path)
                || path.split_first().is_some_and(|(_, below)| path_matches(pattern, below))
        }
        (Some((part, rest)), Some((name, below))) => {
            name_matches(text(part).as_bytes(), text(name).as_bytes()) && path_matches(rest, below)
        }
        _ => false,
    }
}

/// Matches one name. `*` and `?` do not match a leading dot.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let wild = matches!(pattern.first(), Some(b'*' | b'?' | b'['));
    !(wild && name.first() == Some(&b'.')) && matches_from(pattern, name)
}

/// The usual two-pointer match: on a mismatch the last `*` takes one byte more.
fn matches_from(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        let step = match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[at..], name[seen]),
            Some(byte) => (*byte == name[seen]).then_some(1),
            None => None,
        };
        match (step, &mut star) {
            (Some(length), _) => {
                at += length;
                seen += 1;
            }
            (None, Some((star_at, star_seen))) => {
                *star_seen += 1;
                seen = *star_seen;
                at = *star_at + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The length of the class `[...]` that `pattern` begins with, if `byte` is in it. An unclosed one is a plain bracket.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let Some(close) = pattern.iter().skip(2).position(|at| *at == b']').map(|at| at + 2) else {
        return (byte == b'[').then_some(1);
    };
    let inside = &pattern[1..close];
    let (negated, set) = match inside.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, inside),
    };
    let mut found = false;
    let mut at = 0;
    while let Some(low) = set.get(at) {
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(high)) => {
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= *low == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, name, expected) in [
            ("*.log", "app.log", true),
            ("*.log", "app.log.1", false),
            ("app*", "app", true),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxbyybz", false),
            ("?.csv", "a.csv", true),
            ("?.csv", "ab.csv", false),
            ("part-[0-9].csv", "part-7.csv", true),
            ("part-[!0-9].csv", "part-7.csv", false),
            ("[ab]x", "bx", true),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("a[", "a[", true),
        ] {
            assert_eq!(name_matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn trees() {
        let root = tempfile::tempdir().unwrap();
        for file in ["a.csv", "b.txt", "x/a.csv", "x/y/a.csv", "x/y/.a.csv"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let check = |include: &[&str], exclude: &[&str], expected: &[&str]| {
            let full = |patterns: &[&str]| -> Vec<String> {
                patterns.iter().map(|p| root.path().join(p).to_string_lossy().into_owned()).collect()
            };
            let found = expand(&full(include), &full(exclude)).unwrap();
            let expected: BTreeSet<_> = expected.iter().map(|file| root.path().join(file)).collect();
            assert_eq!(found, expected, "{include:?} {exclude:?}");
        };
        check(&["*.csv"], &[], &["a.csv"]);
        check(&["**/*.csv"], &[], &["a.csv", "x/a.csv", "x/y/a.csv"]);
        check(&["**/*.csv"], &["x/**"], &["a.csv"]);
        check(&["*/a.csv", "b.txt"], &[], &["b.txt", "x/a.csv"]);
        check(&["none/*.csv", "a.csv/*"], &[], &[]);
    }
}
