//! What the tap adds to one round trip, against a direct pipe in the same run.
//!
//! `cargo run -p threadline-ingest --example tap_latency [ROUNDS]`
//!
//! Shape: one request of the given size at a time through `cat`, tapped and direct in turn, so that both see the same load.
//! The recorder writes each batch to a file and syncs it. A round trip crosses the tap twice; the figure per frame is half.
#![allow(clippy::print_stdout, reason = "it reports to a person")]

use std::{
    error::Error,
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use threadline_ingest::tap::{Client, Event, Observation, Record, RecordError, TapOptions, run};
use uuid::Uuid;

struct ToFile(File);

impl Record for ToFile {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let unavailable = |error: io::Error| RecordError::Unavailable(error.into());
        for observation in batch {
            if let Event::Frame(frame) = observation.event {
                self.0.write_all(&frame.bytes).map_err(unavailable)?;
            }
        }
        tokio::task::block_in_place(|| self.0.sync_data()).map_err(unavailable)
    }
}

fn round_trip(input: &mut PipeWriter, output: &mut PipeReader, line: &[u8], answer: &mut [u8]) -> io::Result<Duration> {
    let start = Instant::now();
    input.write_all(line)?;
    output.read_exact(answer)?;
    Ok(start.elapsed())
}

fn quantile(times: &mut [Duration], quantile: f64) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    times[(last as f64 * quantile).round() as usize].as_secs_f64() * 1e6
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(5_000), |rounds| rounds.parse())?;
    let path = std::env::temp_dir().join(format!("tap_latency-{}", std::process::id()));
    println!("line bytes | direct p50 us  p99 us | tapped p50 us  p99 us | added per frame p50 us | recorded");
    for size in [200, 2_000, 20_000] {
        let line = [vec![b'x'; size - 1], vec![b'\n']].concat();

        let (child_input, mut direct_input) = io::pipe()?;
        let (mut direct_output, child_output) = io::pipe()?;
        let mut direct = Command::new("cat").stdin(child_input).stdout(Stdio::from(child_output)).spawn()?;

        let (input, mut tapped_input) = io::pipe()?;
        let (mut tapped_output, output) = io::pipe()?;
        let client = Client { input: input.into(), output: output.into(), error: File::create("/dev/null")?.into() };
        let recorder = ToFile(File::create(&path)?);
        let tap =
            tokio::spawn(async move { run(&["cat".into()], client, recorder, TapOptions::new(Uuid::new_v4())).await });

        let measured = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let mut answer = vec![0; line.len()];
            let (mut direct, mut tapped) = (Vec::new(), Vec::new());
            for round in 0..rounds + rounds / 10 {
                let one = round_trip(&mut direct_input, &mut direct_output, &line, &mut answer)?;
                let other = round_trip(&mut tapped_input, &mut tapped_output, &line, &mut answer)?;
                // The first tenth warms up.
                if round >= rounds / 10 {
                    direct.push(one);
                    tapped.push(other);
                }
            }
            Ok((direct, tapped))
        });
        let (mut alone, mut through) = measured.await??;
        let outcome = tap.await??;
        direct.wait()?;
        let (p50, p99) = (quantile(&mut alone, 0.5), quantile(&mut alone, 0.99));
        let (tapped_p50, tapped_p99) = (quantile(&mut through, 0.5), quantile(&mut through, 0.99));
        let added = (tapped_p50 - p50) / 2.0;
        // Less than all of it when the disk does not keep up: that must not slow the tap down.
        let recorded = 100.0 * outcome.recorded.frames as f64 / outcome.passed.frames as f64;
        println!(
            "{size:10} | {p50:13.0} {p99:7.0} | {tapped_p50:13.0} {tapped_p99:7.0} | {added:22.0} | {recorded:.1} %"
        );
    }
    std::fs::remove_file(path)?;
    Ok(())
}
