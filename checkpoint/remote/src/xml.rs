//! As much of XML as the answers of stores need: what stands between the first `<name>` and its end.

/// The content of the first element of this name.
pub(crate) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let start = text.find(&format!("<{name}>"))? + name.len() + 2;
    let len = text[start..].find(&format!("</{name}>"))?;
    Some(&text[start..start + len])
}

/// The contents of all elements of this name, in order; they do not lie in each other.
pub(crate) fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (mut rest, mut found) = (text, Vec::new());
    while let Some(content) = element(rest, name) {
        found.push(content);
        let end = content.as_ptr() as usize - rest.as_ptr() as usize + content.len();
        rest = &rest[end..];
    }
    found
}

/// A text without its escapes.
pub(crate) fn unescape(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_their_order() {
        let text = "<R><U><K>a&amp;b</K></U><K>no</K><U><K>c</K></U><U/></R>";
        let keys: Vec<_> = elements(text, "U").into_iter().filter_map(|u| element(u, "K")).collect();
        assert_eq!(keys.into_iter().map(unescape).collect::<Vec<_>>(), ["a&b", "c"]);
        assert_eq!(element("<K>torn", "K"), None);
        assert_eq!(elements("", "K"), Vec::<&str>::new());
        // What was escaped twice is still escaped once.
        assert_eq!(unescape("&amp;lt;"), "&lt;");
    }
}
