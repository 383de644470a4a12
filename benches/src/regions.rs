//! The two kinds of marks in a benchmark page, both invisible when the page is rendered.
//!
//! `<!-- generated: NAME -->` … `<!-- end -->` encloses a region that the program rewrites, such as a table. Text
//! outside the regions is written by hand, and the program never changes it.
//!
//! `<!-- figure: NAME -->1.22` is a number that handwritten text cites. The program does not rewrite it; a test
//! compares it with the figure of that name, which is computed from the committed data. The number must equal the
//! figure, rounded to as many decimals as the number has. Thousands may have separators.

use std::collections::BTreeMap;

use crate::Result;

const REGION: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";
const FIGURE: &str = "<!-- figure: ";
const CLOSE: &str = " -->";

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// Replaces the content of every generated region. Fails unless page and program have the same regions.
pub fn replace(page: &str, contents: &[(String, String)]) -> Result<String> {
    let (mut replaced, mut rest, mut found) = (String::new(), page, Vec::new());
    while let Some((before, marked)) = rest.split_once(REGION) {
        let (name, inside) = marked.split_once(CLOSE).ok_or("a region's marker is not closed")?;
        let (old, after) = inside.split_once(END).ok_or_else(|| format!("the region `{name}` has no end"))?;
        if old.contains(REGION) {
            return Err(format!("the region `{name}` has no end before the next one").into());
        }
        let content = contents.iter().find(|(known, _)| known == name);
        let (_, content) = content.ok_or_else(|| format!("the program generates no region `{name}`"))?;
        replaced.push_str(before);
        replaced.push_str(&region(name, content));
        found.push(name);
        rest = after;
    }
    if let Some((missing, _)) = contents.iter().find(|(name, _)| !found.contains(&name.as_str())) {
        return Err(format!("the page has no region `{missing}`").into());
    }
    Ok(replaced + rest)
}

/// A region with its markers, without a line break after it.
pub fn region(name: &str, content: &str) -> String {
    format!("{REGION}{name}{CLOSE}\n\n{}\n\n{END}", content.trim())
}

/// The problems of the figures that a page cites, one line each, and the number of citations.
pub fn check_figures(page: &str, figures: &Figures) -> (usize, Vec<String>) {
    let (mut checked, mut problems) = (0, Vec::new());
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with(FIGURE) {
            problems.push(format!("line {number}: begins with a comment, which ends the paragraph in Markdown"));
        }
        for citation in line.split(FIGURE).skip(1) {
            checked += 1;
            let (name, text) = citation.split_once(CLOSE).unwrap_or((citation, ""));
            let cited = leading_number(text);
            let problem = match figures.get(name) {
                None => "there is no such figure".to_owned(),
                Some(figure) => match rounded_like(cited, *figure) {
                    Some(right) if right == cited.replace(',', "") => continue,
                    Some(right) => format!("the page says {cited}, the data {right}"),
                    None => "no number follows".to_owned(),
                },
            };
            problems.push(format!("line {number}: {name}: {problem}"));
        }
    }
    (checked, problems)
}

/// The number at the start of a text, without punctuation after it.
fn leading_number(text: &str) -> &str {
    let end = text.find(|character: char| !character.is_ascii_digit() && !"-,.".contains(character));
    text[..end.unwrap_or(text.len())].trim_end_matches(['-', ',', '.'])
}

/// The figure with as many decimals as the cited number has; none if nothing is cited.
fn rounded_like(cited: &str, figure: f64) -> Option<String> {
    let decimals = cited.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    cited.contains(|character: char| character.is_ascii_digit()).then(|| format!("{figure:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), format!("new {name}"))).collect()
    }

    #[test]
    fn replace_rewrites_regions_and_keeps_other_text() {
        let page =
            "# Title\n\n<!-- generated: a -->\nold\n<!-- end -->\n\nText.\n\n<!-- generated: b -->\n<!-- end -->\n";
        let replaced = replace(page, &contents(&["b", "a"])).unwrap();
        let expected = "# Title\n\n<!-- generated: a -->\n\nnew a\n\n<!-- end -->\n\nText.\n\n\
                        <!-- generated: b -->\n\nnew b\n\n<!-- end -->\n";
        assert_eq!(replaced, expected);
        assert_eq!(replace(&replaced, &contents(&["a", "b"])).unwrap(), expected, "a second time changes nothing");
    }

    #[test]
    fn replace_rejects_unknown_missing_and_unclosed_regions() {
        let error = |page, names: &[&str]| replace(page, &contents(names)).unwrap_err().to_string();
        assert!(error("<!-- generated: a --> <!-- end -->", &[]).contains("no region `a`"));
        assert!(error("text", &["a"]).contains("has no region `a`"));
        assert!(error("<!-- generated: a -->", &["a"]).contains("no end"));
        let unclosed = "<!-- generated: a --> <!-- generated: b --> <!-- end -->";
        assert!(error(unclosed, &["a", "b"]).contains("no end before the next"));
    }

    #[test]
    fn check_figures_accepts_rounded_numbers() {
        let figures = Figures::from([("rate".to_owned(), 16_204.4), ("ratio".to_owned(), 1.216)]);
        let page = "At <!-- figure: rate -->16,204, then <!-- figure: ratio -->1.22. Or <!-- figure: ratio -->1 ms";
        assert_eq!(check_figures(page, &figures), (3, Vec::new()));
    }

    #[test]
    fn check_figures_rejects_a_line_that_begins_with_a_citation() {
        let (_, problems) = check_figures("text\n<!-- figure: a -->1", &Figures::from([("a".to_owned(), 1.0)]));
        assert_eq!(problems, ["line 2: begins with a comment, which ends the paragraph in Markdown"]);
    }

    #[test]
    fn check_figures_finds_wrong_unknown_and_missing_numbers() {
        let figures = Figures::from([("ratio".to_owned(), 1.216)]);
        let problem = |page| check_figures(page, &figures).1.join("\n");
        assert_eq!(problem("\nAt <!-- figure: ratio -->1.21 "), "line 2: ratio: the page says 1.21, the data 1.22");
        assert_eq!(problem("At <!-- figure: ratio -->-1.22"), "line 1: ratio: the page says -1.22, the data 1.22");
        assert_eq!(problem("At <!-- figure: gone -->1"), "line 1: gone: there is no such figure");
        assert_eq!(problem("At <!-- figure: ratio -->times"), "line 1: ratio: no number follows");
    }
}
