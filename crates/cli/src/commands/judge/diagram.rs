use evalign_judge::JudgeCalibration;

/// Length of the axes, and what is left around them, in pixels.
const SIDE: f64 = 320.0;
const MARGIN: f64 = 52.0;

/// A reliability diagram as SVG: what people say by what the judge says, with intervals; a judge that can be taken at
/// its word lies on the diagonal.
pub(super) fn reliability(calibration: &JudgeCalibration) -> String {
    let at = |value: f64| MARGIN + value.clamp(0.0, 1.0) * SIDE;
    let up = |value: f64| MARGIN + (1.0 - value.clamp(0.0, 1.0)) * SIDE;
    let size = SIDE + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{size}\" height=\"{size}\" viewBox=\"0 0 {size} {size}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n<title>Reliability of the judge</title>\n\
         <rect width=\"{size}\" height=\"{size}\" fill=\"#fff\"/>\n\
         <rect x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#888\"/>\n\
         <path d=\"M{} {}L{} {}\" stroke=\"#888\" stroke-dasharray=\"4 4\"/>\n",
        at(0.0),
        up(0.0),
        at(1.0),
        up(1.0),
    );
    for tick in 0..=4 {
        let value = f64::from(tick) / 4.0;
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{value}</text>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value}</text>\n",
            at(value),
            MARGIN + SIDE + 18.0,
            MARGIN - 8.0,
            up(value) + 4.0,
        ));
    }
    let most = calibration.reliability.iter().map(|bin| bin.n).max().unwrap_or(1) as f64;
    for bin in &calibration.reliability {
        let radius = 3.0 + 6.0 * (bin.n as f64 / most).sqrt();
        svg.push_str(&format!(
            "<path d=\"M{x:.1} {}L{x:.1} {}\" stroke=\"#06c\"/>\n\
             <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" fill=\"#06c\" fill-opacity=\"0.7\">\
             <title>judge {:.3}, people {:.3} ({:.3} to {:.3}), n = {}</title></circle>\n",
            up(bin.ci95[0]),
            up(bin.ci95[1]),
            up(bin.people),
            bin.judged,
            bin.people,
            bin.ci95[0],
            bin.ci95[1],
            bin.n,
            x = at(bin.judged),
        ));
    }
    let error = calibration.calibration_error.map_or_else(String::new, |e| format!(", ECE {e:.3}"));
    svg.push_str(&format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">what the judge says</text>\n\
         <text x=\"16\" y=\"{}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {})\">what people say</text>\n\
         <text x=\"{}\" y=\"28\" text-anchor=\"middle\">{} labelled items{error}</text>\n</svg>",
        size / 2.0,
        size - 12.0,
        size / 2.0,
        size / 2.0,
        size / 2.0,
        calibration.labelled,
    ));
    svg
}
