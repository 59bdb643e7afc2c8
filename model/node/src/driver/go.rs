//! The few functions of Go's standard library whose error texts reach users through the drivers' messages.

/// `strconv.ParseInt(text, 10, 32)`.
pub(super) fn parse_i32(text: &str) -> Result<i32, String> {
    parse(text).and_then(|number| i32::try_from(number).map_err(|_| out_of_range(text)))
}

/// `strconv.ParseInt(text, 10, 64)`.
pub(super) fn parse_i64(text: &str) -> Result<i64, String> {
    parse(text).and_then(|number| i64::try_from(number).map_err(|_| out_of_range(text)))
}

fn out_of_range(text: &str) -> String {
    format!("strconv.ParseInt: parsing {text:?}: value out of range")
}

fn parse(text: &str) -> Result<i128, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
    }
    text.parse().map_err(|_| out_of_range(text))
}

/// `strconv.ParseBool`; none for what it refuses.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `path.Join("/", …)` or, with one element, `path.Clean`.
pub(super) fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            other => parts.push(other),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go() {
        assert_eq!(parse_i32("-7"), Ok(-7));
        assert_eq!(parse_i32("x").unwrap_err(), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(parse_i32("3000000000").unwrap_err(), "strconv.ParseInt: parsing \"3000000000\": value out of range");
        assert_eq!(parse_bool("yes"), None);
        for (path, clean) in [("/a//b/../c", "/a/c"), ("/..", "/"), ("", "."), ("a/../..", ".."), ("//x/", "/x")] {
            assert_eq!(clean_path(path), clean);
        }
    }
}
