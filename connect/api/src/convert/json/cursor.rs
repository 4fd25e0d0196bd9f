//! A place in a JSON text. Whatever is not plainly right is `None`.

use std::borrow::Cow;

/// How deep a value that is passed over may be nested.
const MAX_DEPTH: usize = 64;

pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Passes this byte.
    pub(super) fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Passes this word.
    pub(super) fn word(&mut self, word: &str) -> Option<()> {
        self.peek()?;
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    /// There is nothing more.
    pub(super) fn at_end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// Passes exactly this text, if it comes next.
    pub(super) fn text(&mut self, text: &str) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let found = rest.starts_with(text.as_bytes());
        if found {
            self.at += text.len();
        }
        found
    }

    /// Passes a name with its colon, and gives what it says and how it is written.
    pub(super) fn name(&mut self) -> Option<(Cow<'a, str>, &'a str)> {
        self.peek()?;
        let from = self.at;
        let name = self.string()?;
        self.take(b':')?;
        Some((name, self.text.get(from..self.at)?))
    }

    /// Passes a string, and gives what it says.
    pub(super) fn string(&mut self) -> Option<Cow<'a, str>> {
        self.take(b'"')?;
        let from = self.at;
        let end = self.plain()?;
        if end == b'"' {
            let text = self.text.get(from..self.at)?;
            self.at += 1;
            return Some(Cow::Borrowed(text));
        }
        let mut text = self.text.get(from..self.at)?.to_owned();
        loop {
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Some(Cow::Owned(text));
                }
                _ => text.push(self.escaped()?),
            }
            let from = self.at;
            self.plain()?;
            text.push_str(self.text.get(from..self.at)?);
        }
    }

    /// Goes to the next quote or backslash of a string, and gives it.
    fn plain(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                byte @ (b'"' | b'\\') => return Some(byte),
                0..b' ' => return None,
                _ => self.at += 1,
            }
        }
    }

    /// Passes what begins with a backslash. Two escapes that are one character together are left to others.
    fn escaped(&mut self) -> Option<char> {
        let [_, kind] = *self.text.as_bytes().get(self.at..)?.first_chunk()?;
        self.at += 2;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                self.at += 4;
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
            }
            _ => return None,
        })
    }

    /// Passes a number, and gives its text.
    pub(super) fn number(&mut self) -> Option<&'a str> {
        self.peek()?;
        let from = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        self.text.get(from..self.at)
    }

    /// Passes one digit and all that follow.
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// Passes a value.
    pub(super) fn skip(&mut self) -> Option<()> {
        self.skip_at(0)
    }

    fn skip_at(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ if depth == MAX_DEPTH => None,
            b'[' => self.skip_all(b'[', b']', |cursor| cursor.skip_at(depth + 1)),
            b'{' => self.skip_all(b'{', b'}', |cursor| {
                cursor.string()?;
                cursor.take(b':')?;
                cursor.skip_at(depth + 1)
            }),
            _ => self.number().map(drop),
        }
    }

    fn skip_all(&mut self, open: u8, close: u8, one: impl Fn(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open)?;
        if self.peek()? == close {
            return self.take(close);
        }
        loop {
            one(self)?;
            match self.peek()? {
                b',' => self.take(b',')?,
                _ => return self.take(close),
            }
        }
    }
}
