// SPDX-License-Identifier: Apache-2.0
//! The picture of a benchmark: searches per second over recall, a line for each index, as SVG.

use super::{Curve, Report};
use crate::error::{sentence, Result};
use plotters::prelude::*;
use std::ops::Range;

const SIZE: (u32, u32) = (800, 520);
const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(127, 127, 127),
];

/// The picture as the text of an SVG file.
pub(super) fn svg(report: &Report) -> Result<String> {
    let mut text = String::new();
    draw(report, &mut text).map_err(|e| sentence!("cannot draw the plot: {e}"))?;
    Ok(text)
}

/// What the axes show: all points, and some room.
fn ranges(curves: &[Curve]) -> (Range<f64>, Range<f64>) {
    let points = || curves.iter().flat_map(|c| &c.points);
    let least = points().map(|p| p.recall).fold(1.0, f64::min);
    let slow = points()
        .map(|p| p.searches_per_second)
        .fold(f64::INFINITY, f64::min);
    let fast = points().map(|p| p.searches_per_second).fold(0.0, f64::max);
    // A logarithm has no place for zero.
    let (slow, fast) = (slow.clamp(1e-3, 1e12), fast.clamp(1e-3, 1e12));
    let left = (least - 0.02).clamp(0.0, 0.98);
    (left..1.0 + (1.0 - left) * 0.04, slow / 1.5..fast * 1.5)
}

fn draw(report: &Report, to: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(to, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (recalls, rates) = ranges(&report.curves);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!(
                "{} rows of {} elements, {}, {} queries",
                report.rows, report.dim, report.metric, report.queries
            ),
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(recalls, rates.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(format!("recall@{}", report.k))
        .y_desc("searches per second")
        .x_label_formatter(&|x| format!("{x:.2}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(BLACK.mix(0.05))
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for (curve, colour) in report.curves.iter().zip(COLOURS.iter().cycle()) {
        let at = || {
            let points = curve.points.iter();
            points.map(|p| (p.recall, p.searches_per_second.max(1e-3), p.value))
        };
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(
                at().map(|(x, y, _)| (x, y)),
                colour.stroke_width(2),
            ))?
            .label(format!("{}, {}", curve.index, curve.parameter))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        chart.draw_series(at().map(|(x, y, value)| {
            EmptyElement::at((x, y))
                + Circle::new((0, 0), 3, colour.filled())
                + Text::new(value.to_string(), (6, -12), ("sans-serif", 12))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Point;
    use super::*;

    fn report(points: &[(u32, f64, f64)]) -> Report {
        let point = |&(value, recall, searches_per_second): &(u32, f64, f64)| Point {
            value,
            recall,
            searches_per_second,
            distances: 0.0,
            hops: 0.0,
            rows_exact: 0.0,
        };
        Report {
            file: "c".into(),
            dim: 2,
            rows: 9,
            metric: "l2",
            isa: "scalar",
            k: 10,
            queries: 3,
            held_out: true,
            rounds: 1,
            exact_searches_per_second: 1.0,
            curves: vec![Curve {
                index: "hnsw",
                parameter: "ef",
                points: points.iter().map(point).collect(),
            }],
        }
    }

    #[test]
    fn every_point_is_drawn_with_its_value() {
        let drawn = svg(&report(&[(16, 0.9, 9000.0), (64, 0.99, 3000.0)])).unwrap();
        assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
        assert_eq!(drawn.matches("<circle").count(), 2);
        let texts: Vec<&str> = drawn.split("<text").collect();
        for wanted in ["16", "64", "recall@10", "hnsw, ef"] {
            let is = |text: &&str| text.lines().any(|line| line == wanted);
            assert!(texts.iter().any(is), "{wanted}");
        }
    }

    #[test]
    fn nothing_and_zero_can_be_drawn() {
        svg(&report(&[])).unwrap();
        svg(&report(&[(1, 1.0, 0.0)])).unwrap();
        svg(&report(&[(1, 0.0, 5.0), (2, 0.0, 5.0)])).unwrap();
    }
}
