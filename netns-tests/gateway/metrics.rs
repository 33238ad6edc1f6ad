//! Metrics and health of the gateway under test.

use super::Gateway;
use crate::wait::{PATIENCE, wait_for};
use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::str::FromStr;

const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9915);

impl Gateway<'_> {
    /// Sum of all samples of an integer metric with all of these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let (status, page) = self.get("/metrics").expect("scrape the metrics");
        assert_eq!(status, 200, "{page}");
        page.lines().filter_map(|line| sample::<u64>(line, name, labels)).sum()
    }

    /// Samples of a metric with all of these labels, as floating-point numbers.
    pub fn gauges(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let (status, page) = self.get("/metrics").expect("scrape the metrics");
        assert_eq!(status, 200, "{page}");
        page.lines().filter_map(|line| sample(line, name, labels)).collect()
    }

    /// Waits until the sum of all samples meets the condition.
    pub fn wait_for_metric(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        mut wanted: impl FnMut(u64) -> bool,
    ) -> u64 {
        wait_for(&format!("{name}{labels:?}"), || {
            let value = self.metric(name, labels);
            if wanted(value) { Ok(value) } else { Err(format!("it is {value}")) }
        })
    }

    /// Sends `GET` to the metrics listener; returns status and body.
    pub fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = self.lab.gateway.run(|| TcpStream::connect(METRICS))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }
}

/// Value of a sample line, if it is of this metric and has these labels.
fn sample<T: FromStr<Err: Display>>(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<T> {
    let (series, value) = line.rsplit_once(' ')?;
    let (found, rest) = series.split_once('{').unwrap_or((series, ""));
    let has = |(key, value): &(&str, &str)| rest.contains(&format!("{key}=\"{value}\""));
    let whole = || value.parse().unwrap_or_else(|e| panic!("not such a number: {line}: {e}"));
    (found == name && labels.iter().all(has)).then(whole)
}
