//! What is written: a page of Markdown, its plots, and the raw data beside them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Result, machine};

/// A page under way.
pub struct Page {
    name: &'static str,
    text: String,
    plots: Vec<(String, String)>,
    data: Map<String, Value>,
}

impl Page {
    /// Begins a page; `name` is its file's.
    pub fn new(name: &'static str, title: &str) -> Self {
        let machine = machine::describe();
        let text =
            format!("# {title}\n\nWritten by `./dev bench {name}` on {}. The machine: {machine}.\n", machine::today());
        let data = Map::from_iter([("machine".to_owned(), Value::String(machine))]);
        Self { name, text, plots: Vec::new(), data }
    }

    /// A heading.
    pub fn heading(&mut self, heading: &str) {
        self.text.push_str(&format!("\n## {heading}\n"));
    }

    /// A paragraph.
    pub fn say(&mut self, paragraph: impl AsRef<str>) {
        self.text.push_str(&format!("\n{}\n", paragraph.as_ref()));
    }

    /// A table; all columns but the first are numbers.
    pub fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[String; N]]) {
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut rule = vec!["---".to_owned()];
        rule.resize(N, "---:".to_owned());
        self.text.push_str(&format!("\n{}{}", row(&head.map(str::to_owned)), row(&rule)));
        for cells in rows {
            self.text.push_str(&row(cells));
        }
    }

    /// A plot.
    pub fn plot(&mut self, what: &str, caption: &str, svg: String) {
        let file = format!("{}-{what}.svg", self.name);
        self.text.push_str(&format!("\n![{caption}]({file})\n"));
        self.plots.push((file, svg));
    }

    /// Raw data.
    pub fn data(&mut self, what: &str, data: &impl Serialize) -> Result<()> {
        self.data.insert(what.to_owned(), serde_json::to_value(data)?);
        Ok(())
    }

    /// The page.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes all of it; returns where the page is.
    pub fn write(mut self, directory: &Path) -> Result<PathBuf> {
        fs::create_dir_all(directory)?;
        for (file, svg) in &self.plots {
            fs::write(directory.join(file), svg)?;
        }
        let data = format!("{}.json", self.name);
        self.say(format!("The raw data: [{data}]({data})."));
        fs::write(directory.join(data), format!("{}\n", serde_json::to_string_pretty(&self.data)?))?;
        let page = directory.join(format!("{}.md", self.name));
        fs::write(&page, self.text)?;
        Ok(page)
    }
}

/// A count with separators: 12,345.
pub fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number <= -0.5 { format!("-{grouped}") } else { grouped }
}
