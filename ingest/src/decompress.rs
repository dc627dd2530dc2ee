//! Compressed input, with bounds: nothing that arrives may unfold into more than was allowed.
//!
//! Invariants
//! - output never exceeds `bytes_max`, nor `ratio_max` times the input beyond the first [`RATIO_FREE_BYTES`]
//! - a zstd frame may ask for a window of at most 2^[`ZSTD_WINDOW_LOG_MAX`] bytes
//! - several gzip members, or zstd frames, one after the other are one stream
//! - input that ends early is an error, after what came before it was given out
//!
//! Not here: which encoding a sender named.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use threadline_schemas::limits::arrival::{RATIO_FREE_BYTES, ZSTD_WINDOW_LOG_MAX};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// How much may come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in total.
    pub bytes_max: u64,
    /// Times the bytes that went in.
    pub ratio_max: u64,
}

/// Why input is refused.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// Too much comes out.
    #[error("decompressed size is above the limit of {0} bytes")]
    TooLarge(u64),
    /// Too much comes out for what went in.
    #[error("decompressed size is more than {0} times the compressed size")]
    Ratio(u64),
}

impl Coding {
    /// By the first bytes of a file.
    pub fn of_magic(head: &[u8]) -> Coding {
        match head {
            [0x1f, 0x8b, ..] => Coding::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Coding::Zstd,
            _ => Coding::Identity,
        }
    }

    /// By the value of `Content-Encoding`; `None` when it is not known.
    pub fn of_header(value: &str) -> Option<Coding> {
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Coding::Identity),
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "zstd" => Some(Coding::Zstd),
            _ => None,
        }
    }

    /// The name in `Content-Encoding`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }
}

/// A reader of what `source` holds, decompressed within the limits. Errors of the limits are [`DecompressError`] inside
/// [`io::Error`]; see [`refusal`].
pub fn reader<'r>(
    source: impl BufRead + Send + 'r,
    coding: Coding,
    limits: Limits,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    let (source, read) = counted(source);
    let inner: Box<dyn Read + Send + 'r> = match coding {
        Coding::Identity => Box::new(source),
        Coding::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(32 * 1024, source))),
        Coding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Bounded { inner, read, given: 0, limits, is_plain: coding == Coding::Identity }))
}

/// All of `source`, decompressed within the limits.
pub fn bytes(source: &[u8], coding: Coding, limits: Limits) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader(source, coding, limits)?.read_to_end(&mut out)?;
    Ok(out)
}

/// Which limit an error of [`reader`] names, if any.
pub fn refusal(error: &io::Error) -> Option<&DecompressError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

struct Bounded<R> {
    inner: R,
    /// Compressed bytes taken so far.
    read: Counter,
    given: u64,
    limits: Limits,
    is_plain: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(into) {
            // A window above the limit, a bad checksum, a truncated frame: all the sender's.
            Err(error) if error.kind() == ErrorKind::Other => {
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            other => other?,
        };
        self.given += count as u64;
        if self.given > self.limits.bytes_max {
            return Err(io::Error::new(ErrorKind::FileTooLarge, DecompressError::TooLarge(self.limits.bytes_max)));
        }
        let allowed = RATIO_FREE_BYTES + self.read.get().saturating_mul(self.limits.ratio_max);
        if !self.is_plain && self.given > allowed {
            return Err(io::Error::new(ErrorKind::FileTooLarge, DecompressError::Ratio(self.limits.ratio_max)));
        }
        Ok(count)
    }
}

/// Bytes read, shared between the two ends of a decoder.
#[derive(Clone, Default)]
struct Counter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

struct Counted<R> {
    inner: R,
    counter: Counter,
}

fn counted<R>(inner: R) -> (Counted<R>, Counter) {
    let counter = Counter::default();
    (Counted { inner, counter: counter.clone() }, counter)
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.counter.0.fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LIMITS: Limits = Limits { bytes_max: 1 << 20, ratio_max: 100 };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_was_packed_comes_out() {
        let text = [noise(100_000), b"text ".repeat(2000)].concat();
        assert_eq!(bytes(&text, Coding::Identity, LIMITS).unwrap(), text);
        let members = [gzip(&text[..500]), gzip(&text[500..])].concat();
        assert_eq!(bytes(&members, Coding::Gzip, LIMITS).unwrap(), text);
        let frames = [&text[..500], &text[500..]].map(|part| zstd::bulk::compress(part, 3).unwrap()).concat();
        assert_eq!(bytes(&frames, Coding::Zstd, LIMITS).unwrap(), text);
    }

    #[test]
    fn bombs_are_refused() {
        let zeros = vec![0; 8 << 20];
        let by_ratio = Limits { bytes_max: 1 << 30, ratio_max: 100 };
        for (packed, coding) in [(gzip(&zeros), Coding::Gzip), (zstd::bulk::compress(&zeros, 3).unwrap(), Coding::Zstd)]
        {
            let error = bytes(&packed, coding, by_ratio).unwrap_err();
            assert!(matches!(refusal(&error), Some(DecompressError::Ratio(100))), "{error}");
        }
        let error = bytes(&noise(2 << 20), Coding::Identity, LIMITS).unwrap_err();
        assert!(matches!(refusal(&error), Some(DecompressError::TooLarge(_))), "{error}");
        let error = bytes(&gzip(&noise(2 << 20)), Coding::Gzip, LIMITS).unwrap_err();
        assert!(matches!(refusal(&error), Some(DecompressError::TooLarge(_))), "{error}");
    }

    #[test]
    fn the_last_byte_within_a_limit_comes_out_and_one_more_does_not() {
        let text = noise(5000);
        let zeros = vec![0; 1 << 20];
        let packed = |text: &[u8], coding| match coding {
            Coding::Identity => text.to_vec(),
            Coding::Gzip => gzip(text),
            Coding::Zstd => zstd::bulk::compress(text, 3).unwrap(),
        };
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
            let within = |bytes_max| bytes(&packed(&text, coding), coding, Limits { bytes_max, ratio_max: 100 });
            assert_eq!(within(5000).unwrap(), text);
            let error = within(4999).unwrap_err();
            assert!(matches!(refusal(&error), Some(DecompressError::TooLarge(4999))), "{coding:?} {error}");
        }
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = packed(&zeros, coding);
            let needed = (zeros.len() as u64 - RATIO_FREE_BYTES).div_ceil(packed.len() as u64);
            let within = |ratio_max| bytes(&packed, coding, Limits { bytes_max: 1 << 30, ratio_max });
            assert_eq!(within(needed).unwrap(), zeros);
            let error = within(needed - 1).unwrap_err();
            assert!(matches!(refusal(&error), Some(DecompressError::Ratio(_))), "{coding:?} {error}");
        }
    }

    #[test]
    fn a_large_window_is_refused() {
        let packed = |window_log| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window_log).unwrap();
            encoder.write_all(&noise(100)).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(bytes(&packed(ZSTD_WINDOW_LOG_MAX), Coding::Zstd, LIMITS).unwrap(), noise(100));
        let error = bytes(&packed(ZSTD_WINDOW_LOG_MAX + 1), Coding::Zstd, LIMITS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn truncated_and_damaged_input_is_an_error() {
        let text = noise(10_000);
        for (packed, coding) in [(gzip(&text), Coding::Gzip), (zstd::bulk::compress(&text, 3).unwrap(), Coding::Zstd)] {
            for length in 1..packed.len().min(60) {
                assert!(bytes(&packed[..length], coding, LIMITS).is_err(), "{coding:?} {length}");
            }
            assert!(bytes(&packed[..packed.len() - 1], coding, LIMITS).is_err(), "{coding:?}");
            assert!(bytes(&text, coding, LIMITS).is_err());
        }
        assert_eq!(bytes(b"", Coding::Gzip, LIMITS).unwrap_or_default(), b"");
    }
}
