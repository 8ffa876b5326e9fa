//! Text into a condition: `method = galore and (lr < 0.01 or rank in (4, 8))`.
//!
//! ```text
//! or         = and ("or" and)*
//! and        = not ("and" not)*
//! not        = "not" not | "(" or ")" | comparison
//! comparison = name operator value | name ["not"] "in" "(" value ("," value)* ")"
//! operator   = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" | "~" | ["not"] "like"
//! ```
//! Names and values are bare words, or quoted: names in backquotes, values in `'` or `"` (doubled inside).

use std::ops::Range;

use super::{
    QueryError,
    condition::{Condition, Literal, Name, Operator},
};

/// How deep parentheses and `not` may nest.
const DEEPEST: usize = 100;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A bare word: a name, a value or a keyword.
    Word(String),
    /// In backquotes.
    Name(String),
    /// In quotes.
    Text(String),
    Operator(Operator),
    Open,
    Close,
    Comma,
}

/// Reads a condition.
///
/// # Errors
/// With the place of the first thing that does not fit.
pub(crate) fn parse(text: &str) -> Result<Condition<Name>, QueryError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, end: text.len(), depth: 0 };
    let condition = parser.any()?;
    match parser.tokens.get(parser.at) {
        None => Ok(condition),
        Some((Token::Close, place)) => Err(error(place, "this parenthesis was never opened")),
        Some((_, place)) => Err(error(place, "the condition should end here, or go on with `and` or `or`")
            .help("texts with spaces are quoted: `node = 'a b'`")),
    }
}

fn error(place: &Range<usize>, message: impl Into<String>) -> QueryError {
    QueryError::new("where::syntax", place.clone(), message)
}

fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, QueryError> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, c)) = rest.next() {
        let mut follows = |wanted: char| rest.next_if(|(_, next)| *next == wanted).is_some();
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '~' => Token::Operator(Operator::Contains),
            '=' => {
                follows('=');
                Token::Operator(Operator::Equal)
            }
            '!' if follows('=') => Token::Operator(Operator::NotEqual),
            '<' if follows('=') => Token::Operator(Operator::LessOrEqual),
            '<' if follows('>') => Token::Operator(Operator::NotEqual),
            '<' => Token::Operator(Operator::Less),
            '>' if follows('=') => Token::Operator(Operator::GreaterOrEqual),
            '>' => Token::Operator(Operator::Greater),
            '\'' | '"' | '`' => {
                let mut content = String::new();
                loop {
                    match rest.next() {
                        Some((_, next)) if next == c => {
                            if rest.next_if(|(_, again)| *again == c).is_none() {
                                break;
                            }
                            content.push(c);
                        }
                        Some((_, next)) => content.push(next),
                        None => return Err(error(&(start..text.len()), format!("this {c} is never closed"))),
                    }
                }
                if c == '`' { Token::Name(content) } else { Token::Text(content) }
            }
            c if in_word(c) => {
                let mut word = String::from(c);
                while let Some((_, next)) = rest.next_if(|(_, next)| in_word(*next)) {
                    word.push(next);
                }
                Token::Word(word)
            }
            other => {
                let message = format!("`{other}` has no meaning here");
                let help = match other {
                    '&' => "write `and`",
                    '|' => "write `or`",
                    '!' => "write `not`",
                    _ => "texts with other characters are quoted: `node = 'a;b'`",
                };
                return Err(error(&(start..start + other.len_utf8()), message).help(help));
            }
        };
        let end = rest.peek().map_or(text.len(), |(at, _)| *at);
        tokens.push((token, start..end));
    }
    Ok(tokens)
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || "_.-+/:@%*[]".contains(c)
}

struct Parser<'t> {
    tokens: &'t [(Token, Range<usize>)],
    at: usize,
    end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<(Token, Range<usize>)> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn here(&self) -> Range<usize> {
        self.tokens.get(self.at).map_or(self.end..self.end, |(_, place)| place.clone())
    }

    /// Takes the next token if it is this keyword.
    fn keyword(&mut self, wanted: &str) -> bool {
        let found =
            matches!(self.tokens.get(self.at), Some((Token::Word(word), _)) if word.eq_ignore_ascii_case(wanted));
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<Condition<Name>, QueryError> {
        let mut of = vec![self.all()?];
        while self.keyword("or") {
            of.push(self.all()?);
        }
        Ok(if of.len() == 1 { of.remove(0) } else { Condition::Or(of) })
    }

    fn all(&mut self) -> Result<Condition<Name>, QueryError> {
        let mut of = vec![self.one()?];
        while self.keyword("and") {
            of.push(self.one()?);
        }
        Ok(if of.len() == 1 { of.remove(0) } else { Condition::And(of) })
    }

    fn one(&mut self) -> Result<Condition<Name>, QueryError> {
        let place = self.here();
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(error(&place, format!("the condition is nested more than {DEEPEST} deep")));
        }
        let condition = if self.keyword("not") {
            Condition::Not(Box::new(self.one()?))
        } else if matches!(self.tokens.get(self.at), Some((Token::Open, _))) {
            self.at += 1;
            let inner = self.any()?;
            match self.next() {
                Some((Token::Close, _)) => inner,
                _ => return Err(error(&place, "this parenthesis is never closed")),
            }
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn comparison(&mut self) -> Result<Condition<Name>, QueryError> {
        let place = self.here();
        let name = match self.next() {
            Some((Token::Word(word), place)) if is_keyword(&word) => {
                return Err(error(&place, format!("expected a name before `{word}`"))
                    .help("a condition looks like this: `method = galore and lr < 0.01`"));
            }
            Some((Token::Word(text) | Token::Name(text), place)) => Name { text, place },
            Some((Token::Text(text), place)) => {
                return Err(error(&place, "expected a name, found a quoted text")
                    .help(format!("names are written bare or in backquotes: `{text}`")));
            }
            _ => {
                return Err(error(&place, "expected a condition here")
                    .help("a condition looks like this: `method = galore and lr < 0.01`"));
            }
        };
        let not = self.keyword("not");
        let condition = if self.keyword("in") {
            Condition::In { name, values: self.values()? }
        } else if self.keyword("like") {
            Condition::Compare { name, operator: Operator::Like, value: self.value()? }
        } else {
            let place = self.here();
            match self.next() {
                Some((Token::Operator(operator), at)) if !not => {
                    let value_place = self.here();
                    let value = self.value()?;
                    let ordered =
                        !matches!(operator, Operator::Equal | Operator::NotEqual | Operator::Like | Operator::Contains);
                    if ordered && value.number.is_none() && name.text != "started" {
                        return Err(error(&value_place, format!("`{}` is not a number", value.text))
                            .label("not a number")
                            .help(format!(
                                "only numbers (and `started`) have an order: {} texts with = or like",
                                "compare"
                            ))
                            .at_operator(&at));
                    }
                    Condition::Compare { name, operator, value }
                }
                _ => {
                    return Err(error(&place, format!("expected a comparison after `{}`", name.text))
                        .label("one of = != < <= > >= ~ like in")
                        .help(format!(
                            "for example `{} = 1`, `{} in (1, 2)`, `{} like 'a%'`",
                            name.text, name.text, name.text
                        )));
                }
            }
        };
        Ok(if not { Condition::Not(Box::new(condition)) } else { condition })
    }

    fn values(&mut self) -> Result<Vec<Literal>, QueryError> {
        let open = self.here();
        if !matches!(self.next(), Some((Token::Open, _))) {
            return Err(error(&open, "expected `(` after `in`").help("for example `rank in (4, 8)`"));
        }
        let mut values = vec![self.value()?];
        loop {
            let place = self.here();
            match self.next() {
                Some((Token::Comma, _)) => values.push(self.value()?),
                Some((Token::Close, _)) => return Ok(values),
                None => return Err(error(&open, "this parenthesis is never closed")),
                _ => return Err(error(&place, "expected `,` or `)`").help("texts with spaces are quoted")),
            }
        }
    }

    fn value(&mut self) -> Result<Literal, QueryError> {
        let place = self.here();
        match self.next() {
            Some((Token::Word(text), _)) => {
                let number = text.parse::<f64>().ok().filter(|number| !number.is_nan());
                Ok(Literal { text, number })
            }
            Some((Token::Text(text), _)) => Ok(Literal { text, number: None }),
            _ => Err(error(&place, "expected a value here: a number, a word or a quoted text")),
        }
    }
}

impl QueryError {
    /// Errors about a value point at it; where the text ends there, at the operator before it.
    fn at_operator(mut self, operator: &Range<usize>) -> Self {
        if self.place.is_empty() {
            self.place = operator.clone();
        }
        self
    }
}

fn is_keyword(word: &str) -> bool {
    ["and", "or", "not", "in", "like"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(condition: &Condition<Name>) -> String {
        let all = |of: &[Condition<Name>], word: &str| of.iter().map(shown).collect::<Vec<_>>().join(word);
        match condition {
            Condition::Or(of) => format!("({})", all(of, " | ")),
            Condition::And(of) => format!("({})", all(of, " & ")),
            Condition::Not(of) => format!("!{}", shown(of)),
            Condition::Compare { name, operator, value } => {
                format!(
                    "{} {operator:?} {}",
                    name.text,
                    value.number.map_or(format!("{:?}", value.text), |n| n.to_string())
                )
            }
            Condition::In { name, values } => {
                format!("{} in {}", name.text, values.iter().map(|v| v.text.as_str()).collect::<Vec<_>>().join(";"))
            }
        }
    }

    fn read(text: &str) -> String {
        parse(text).map_or_else(|e| format!("{}..{} {}", e.place.start, e.place.end, e.message), |c| shown(&c))
    }

    #[test]
    fn conditions_bind_as_people_expect() {
        assert_eq!(read("method = galore and lr < 0.01"), r#"(method Equal "galore" & lr Less 0.01)"#);
        assert_eq!(read("a=1 or b!=2 and not c>=3"), "(a Equal 1 | (b NotEqual 2 & !c GreaterOrEqual 3))");
        assert_eq!(read("(a=1 OR b<>2) AND c==-3e-4"), "((a Equal 1 | b NotEqual 2) & c Equal -0.0003)");
        assert_eq!(read("rank in (4, 8,'x y') and node not in (a)"), "(rank in 4;8;x y & !node in a)");
        assert_eq!(
            read("node like 'train%' and `odd name` ~ \"it\"\"s\""),
            r#"(node Like "train%" & odd name Contains "it\"s")"#
        );
        assert_eq!(read("a not like b"), r#"!a Like "b""#);
        assert_eq!(read("lr = '0.01'"), r#"lr Equal "0.01""#);
    }

    #[test]
    fn errors_point_at_what_does_not_fit() {
        let cases = [
            ("", "0..0 expected a condition here"),
            ("lr", "2..2 expected a comparison after `lr`"),
            ("lr <", "4..4 expected a value here: a number, a word or a quoted text"),
            ("lr < abc", "5..8 `abc` is not a number"),
            ("lr = 1 rank = 2", "7..11 the condition should end here, or go on with `and` or `or`"),
            ("(lr = 1", "0..1 this parenthesis is never closed"),
            ("lr = 1)", "6..7 this parenthesis was never opened"),
            ("lr in 1", "6..7 expected `(` after `in`"),
            ("lr in (1 2)", "9..10 expected `,` or `)`"),
            ("lr = 'x", "5..7 this ' is never closed"),
            ("a = 1 && b = 2", "6..7 `&` has no meaning here"),
            ("and = 1", "0..3 expected a name before `and`"),
            ("'lr' = 1", "0..4 expected a name, found a quoted text"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected, "{text}");
        }
        assert!(read(&"(".repeat(5000)).contains("nested more than 100 deep"));
        assert!(read(&"not ".repeat(5000)).contains("nested more than 100 deep"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in r#"[a-c =<>!~()',"`%éx0-9.-]{0,40}"#) {
            if let Err(error) = parse(&text) {
                prop_assert!(text.is_char_boundary(error.place.start) && text.is_char_boundary(error.place.end), "{error:?}");
            }
        }
    }
}
