//! How benches write down what they measured.

/// Median, least and largest, with so many digits behind the point.
pub fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let [median, least, largest] = [values.len() / 2, 0, values.len() - 1].map(|at| values[at]);
    format!("{median:.digits$} ({least:.digits$} to {largest:.digits$})")
}
