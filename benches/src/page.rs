//! A benchmark page: generated regions, plots, figures that handwritten text may cite, and the data behind them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::regions::{self, Figures};
use crate::{Result, machine};

/// The content of a page's data file: the results of one run, and where and when they were measured.
#[derive(Serialize, Deserialize)]
pub struct Run<T> {
    date: String,
    machine: String,
    #[serde(flatten)]
    pub results: T,
}

/// The generated part of a page.
pub struct Page {
    name: &'static str,
    /// Regions by name, in the order in which they were first added to.
    regions: Vec<(String, String)>,
    /// Plots by file name, as SVG.
    plots: Vec<(String, String)>,
    figures: Figures,
}

impl<T> Run<T> {
    /// Describes the machine and runs the benchmark on it.
    pub async fn of(benchmark: impl Future<Output = Result<T>>) -> Result<Self> {
        let (date, machine) = (machine::today(), machine::describe());
        Ok(Self { date, machine, results: benchmark.await? })
    }
}

impl Page {
    /// Begins a page with the region `run`, which says when and where the data were measured.
    pub fn new<T>(name: &'static str, run: &Run<T>) -> Self {
        let mut page = Self { name, regions: Vec::new(), plots: Vec::new(), figures: Figures::new() };
        page.add("run", &format!("Measured with `./dev bench {name}` on {}. Machine: {}.", run.date, run.machine));
        page.add("data", &format!("Raw data: [{name}.json]({name}.json)."));
        page
    }

    /// Adds a table to a region. All columns but the first are numbers.
    pub fn table<const N: usize>(&mut self, region: &str, head: [&str; N], rows: &[[String; N]]) {
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut rule = vec!["---".to_owned()];
        rule.resize(N, "---:".to_owned());
        let rows: String = rows.iter().map(|cells| row(cells)).collect();
        self.add(region, &format!("{}{}{rows}", row(&head.map(str::to_owned)), row(&rule)));
    }

    /// Adds a plot to the region of the same name, in the file `PAGE-NAME.svg`.
    pub fn plot(&mut self, name: &str, caption: &str, svg: String) {
        let file = format!("{}-{name}.svg", self.name);
        self.add(name, &format!("![{caption}]({file})"));
        self.plots.push((file, svg));
    }

    /// A figure that handwritten text may cite.
    pub fn figure(&mut self, name: impl Into<String>, value: f64) {
        self.figures.insert(name.into(), value);
    }

    fn add(&mut self, region: &str, text: &str) {
        match self.regions.iter_mut().find(|(name, _)| name == region) {
            Some((_, content)) => content.push_str(&format!("\n{text}")),
            None => self.regions.push((region.to_owned(), text.to_owned())),
        }
    }

    /// The generated regions, for printing.
    pub fn text(&self) -> String {
        self.regions.iter().map(|(_, content)| content.trim()).collect::<Vec<_>>().join("\n\n")
    }

    /// Rewrites the generated regions of the page in `directory`, and its plots. A page that does not exist is created
    /// with the regions alone. Returns the path of the page, and the figures in its text that are no longer right.
    pub fn write(&self, directory: &Path) -> Result<(PathBuf, Vec<String>)> {
        fs::create_dir_all(directory)?;
        let path = self.path(directory);
        let old = if path.exists() { fs::read_to_string(&path)? } else { self.skeleton() };
        let new = regions::replace(&old, &self.regions).map_err(|error| format!("{}: {error}", path.display()))?;
        let (_, problems) = regions::check_figures(&new, &self.figures);
        fs::write(&path, new)?;
        for (file, svg) in &self.plots {
            fs::write(directory.join(file), svg)?;
        }
        Ok((path, problems))
    }

    fn skeleton(&self) -> String {
        let regions: Vec<_> = self.regions.iter().map(|(name, _)| regions::region(name, "")).collect();
        format!("# {}\n\n{}\n", self.name, regions.join("\n\n"))
    }

    fn path(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.md", self.name))
    }
}

/// Reads the data file of a page.
pub fn read_data<T: for<'de> Deserialize<'de>>(directory: &Path, name: &str) -> Result<Run<T>> {
    let path = data_path(directory, name);
    let read = fs::read_to_string(&path).map_err(Into::into);
    let parsed = read.and_then(|text| Ok(serde_json::from_str(&text)?));
    parsed.map_err(|error: Box<dyn std::error::Error + Send + Sync>| format!("{}: {error}", path.display()).into())
}

/// Writes the data file of a page, with sorted keys.
pub fn write_data<T: Serialize>(directory: &Path, name: &str, run: &Run<T>) -> Result<()> {
    fs::create_dir_all(directory)?;
    let sorted = serde_json::to_value(run)?;
    fs::write(data_path(directory, name), format!("{}\n", serde_json::to_string_pretty(&sorted)?))?;
    Ok(())
}

fn data_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.json"))
}

/// Checks of the committed pages against the committed data.
#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks")
    }

    fn check(page: &Page) {
        let (path, advice) = (page.path(&directory()), "run `./dev bench --render`");
        let text = fs::read_to_string(&path).unwrap();
        let rendered = regions::replace(&text, &page.regions).unwrap();
        assert!(rendered == text, "the generated regions of {} differ from its data: {advice}", path.display());
        for (file, svg) in &page.plots {
            let committed = fs::read_to_string(directory().join(file)).unwrap();
            assert!(committed == *svg, "{file} differs from its data: {advice}");
        }
        let (checked, problems) = regions::check_figures(&text, &page.figures);
        assert!(checked > 0, "{} cites no figure", path.display());
        assert!(problems.is_empty(), "{}:\n{}", path.display(), problems.join("\n"));
    }

    #[test]
    fn limit_page_matches_its_data() {
        check(&crate::limit::render(&read_data(&directory(), "limit").unwrap()).unwrap());
    }

    #[test]
    fn designs_page_matches_its_data() {
        check(&crate::designs::render(&read_data(&directory(), "designs").unwrap()).unwrap());
    }

    #[test]
    fn scale_page_matches_its_data() {
        check(&crate::scale::render(&read_data(&directory(), "scale").unwrap()).unwrap());
    }
}
