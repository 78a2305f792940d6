//! What a process spent, for those who measure.

type Error = Box<dyn std::error::Error>;

/// Processor seconds and memory of this process as members of a JSON object.
pub(crate) fn usage() -> Result<String, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may have spaces in it.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
    };
    Ok(format!(
        r#""user":{:.2},"system":{:.2},"rss_kib":{},"peak_rss_kib":{}"#,
        // Linux counts in hundredths whatever the kernel's own tick is.
        ticks(11).unwrap_or(0.0) / 100.0,
        ticks(12).unwrap_or(0.0) / 100.0,
        kib("VmRSS:").unwrap_or(0),
        kib("VmHWM:").unwrap_or(0),
    ))
}
