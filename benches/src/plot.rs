//! Plots, as SVG.

use plotters::prelude::*;

use crate::Result;

const SIZE: (u32, u32) = (760, 400);
/// Distinguishable with colour blindness.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A line of a plot: name and points.
pub type Line = (String, Vec<(f64, f64)>);

/// A bar chart: each bar has a name and a value.
pub fn bars(title: &str, unit: &str, bars: &[(String, f64)]) -> Result<String> {
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    draw(|root| {
        let mut chart = frame(root, title).build_cartesian_2d((0..bars.len()).into_segmented(), 0.0..most)?;
        let name = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(place) => bars.get(*place).map(|(name, _)| name.clone()).unwrap_or_default(),
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        };
        chart.configure_mesh().disable_x_mesh().x_label_formatter(&name).y_desc(unit).draw()?;
        chart.draw_series(bars.iter().enumerate().map(|(place, (_, value))| {
            let from = (SegmentValue::Exact(place), 0.0);
            let mut bar = Rectangle::new([from, (SegmentValue::Exact(place + 1), *value)], COLOURS[0].filled());
            bar.set_margin(0, 0, 14, 14);
            bar
        }))?;
        Ok(())
    })
}

/// A bar chart with several series, grouped by `names`. Values may be negative.
pub fn groups(title: &str, unit: &str, names: &[String], series: &[(String, Vec<f64>)]) -> Result<String> {
    let values = || series.iter().flat_map(|(_, values)| values.iter().copied());
    let (least, most) = (values().fold(0.0, f64::min), values().fold(f64::MIN_POSITIVE, f64::max));
    let room = (most - least) * 0.1;
    draw(|root| {
        let mut chart =
            frame(root, title).build_cartesian_2d(-0.5..names.len() as f64 - 0.5, least - room..most + room)?;
        // Half of the labels are between two groups; they stay empty.
        let name = |place: &f64| names.get(place.round() as usize).filter(|_| place.fract() == 0.0).cloned();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_labels(2 * names.len())
            .x_label_formatter(&|place| name(place).unwrap_or_default())
            .y_desc(unit)
            .draw()?;
        let width = 0.8 / series.len() as f64;
        for (number, (name, values)) in series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let bars = values.iter().enumerate().map(|(place, value)| {
                let left = place as f64 - 0.4 + number as f64 * width;
                Rectangle::new([(left, 0.0), (left + width, *value)], colour.filled())
            });
            let legend = move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled());
            chart.draw_series(bars)?.label(name).legend(legend);
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
        Ok(())
    })
}

/// A line chart with a logarithmic x axis.
pub fn lines(title: &str, x: &str, y: &str, lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let (least, most) = points().fold((f64::MAX, 1.0_f64), |(least, most), (x, _)| (least.min(x), most.max(x)));
    let highest = points().map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    draw(|root| {
        let mut chart =
            frame(root, title).build_cartesian_2d((least..most.max(least * 1.01)).log_scale(), 0.0..highest)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .x_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .x_desc(x)
            .y_desc(y)
            .draw()?;
        for (place, (name, points)) in lines.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        // The corner that growing lines leave free.
        let place = SeriesLabelPosition::UpperLeft;
        chart.configure_series_labels().position(place).background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
        Ok(())
    })
}

/// The drawing area.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The margins, caption and axis areas that every plot has.
fn frame<'a, 'b>(canvas: &'a Canvas<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut frame = ChartBuilder::on(canvas);
    frame.caption(title, ("sans-serif", 18)).margin(12).x_label_area_size(40).y_label_area_size(72);
    frame
}

fn draw(
    paint: impl FnOnce(&Canvas<'_>) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let painted = root.fill(&WHITE).and_then(|()| paint(&root)).and_then(|()| root.present());
        painted.map_err(|error| error.to_string())?;
    }
    Ok(svg)
}
