//! Decompresses a body for the record while it passes, chunk by chunk.
//!
//! Invariants
//! - what a chunk unfolds into is given out with that chunk, as far as its coding allows
//! - one chunk gives at most `bytes_max`, and all up to it at most [`RATIO_MAX`] times the bytes that came, beyond the first
//!   [`RATIO_FREE_BYTES`]; more, damage, or a coding that is not known make the rest of the body opaque
//!
//! Not here: `crate::decompress` reads a whole source; this is fed.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use threadline_schemas::limits::arrival::{RATIO_FREE_BYTES, RATIO_MAX, ZSTD_WINDOW_LOG_MAX};

const BROTLI_BUFFER_BYTES: usize = 4096;

/// The codings of a body, by `Content-Encoding`.
pub(super) enum Coding {
    Plain,
    Gzip(MultiGzDecoder<Sink>),
    Deflate(ZlibDecoder<Sink>),
    Zstd(zstd::stream::write::Decoder<'static, Sink>),
    Brotli(Box<DecompressorWriter<Sink>>),
    /// It cannot be read, and why.
    Opaque(&'static str),
}

/// Takes what comes out, up to the limits.
pub(super) struct Sink {
    out: Vec<u8>,
    bytes_max: usize,
    /// What may still come out for what came.
    allowed: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(allowed) = self.allowed.checked_sub(bytes.len() as u64) else {
            return Err(io::Error::other("over the ratio"));
        };
        if self.out.len() + bytes.len() > self.bytes_max {
            return Err(io::Error::other("over the limit"));
        }
        self.allowed = allowed;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Coding {
    pub(super) fn of(content_encoding: Option<&str>, bytes_max: usize) -> Coding {
        let sink = Sink { out: Vec::new(), bytes_max, allowed: RATIO_FREE_BYTES };
        match content_encoding.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Coding::Plain,
            "gzip" | "x-gzip" => Coding::Gzip(MultiGzDecoder::new(sink)),
            "deflate" => Coding::Deflate(ZlibDecoder::new(sink)),
            "br" => Coding::Brotli(Box::new(DecompressorWriter::new(sink, BROTLI_BUFFER_BYTES))),
            "zstd" => zstd_decoder(sink).map_or(Coding::Opaque("zstd is not available"), Coding::Zstd),
            _ => Coding::Opaque("its coding is not known"),
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Coding::Plain)
    }

    /// What the chunk unfolds into; `Err` says why it cannot be known, from here on.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, &'static str> {
        let fed = match self {
            Coding::Plain => return Ok(chunk.to_vec()),
            Coding::Opaque(reason) => return Err(reason),
            Coding::Gzip(decoder) => fed(decoder, chunk, |decoder| decoder.get_mut()),
            Coding::Deflate(decoder) => fed(decoder, chunk, |decoder| decoder.get_mut()),
            Coding::Zstd(decoder) => fed(decoder, chunk, |decoder| decoder.get_mut()),
            Coding::Brotli(decoder) => fed(&mut **decoder, chunk, |decoder| decoder.get_mut()),
        };
        fed.map_err(|_| {
            let reason = "it cannot be decompressed within the limits";
            *self = Coding::Opaque(reason);
            reason
        })
    }
}

fn zstd_decoder(sink: Sink) -> io::Result<zstd::stream::write::Decoder<'static, Sink>> {
    let mut decoder = zstd::stream::write::Decoder::new(sink)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn fed<D: Write>(decoder: &mut D, chunk: &[u8], sink: impl Fn(&mut D) -> &mut Sink) -> io::Result<Vec<u8>> {
    let allowed = &mut sink(decoder).allowed;
    *allowed = allowed.saturating_add((chunk.len() as u64).saturating_mul(RATIO_MAX));
    decoder.write_all(chunk)?;
    decoder.flush()?;
    Ok(std::mem::take(&mut sink(decoder).out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    const TEXT: &[u8] = b"data: {\"jsonrpc\":\"2.0\"}\n\n";

    /// Two events, each flushed: the compressed bytes of each.
    fn pieces(coding: &str) -> [Vec<u8>; 2] {
        fn two<E: Write>(mut encoder: E, out: impl Fn(&mut E) -> &mut Vec<u8>) -> [Vec<u8>; 2] {
            [(); 2].map(|()| {
                encoder.write_all(TEXT).unwrap();
                encoder.flush().unwrap();
                std::mem::take(out(&mut encoder))
            })
        }
        match coding {
            "gzip" => two(GzEncoder::new(Vec::new(), Compression::default()), |encoder| encoder.get_mut()),
            "deflate" => two(ZlibEncoder::new(Vec::new(), Compression::default()), |encoder| encoder.get_mut()),
            "zstd" => two(zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap(), |encoder| encoder.get_mut()),
            // Two flushes of Node's zlib: there is no encoder among our dependencies.
            _ => ["0b0c80646174613a207b226a736f6e727063223a22322e30227d0a0a", "c000805f822c9809146400"]
                .map(|piece| hex::decode(piece).unwrap()),
        }
    }

    #[test]
    fn each_chunk_gives_what_it_holds() {
        for coding in ["gzip", "deflate", "zstd", "br"] {
            let [first, second] = pieces(coding);
            let mut decoder = Coding::of(Some(coding), 1000);
            assert_eq!(decoder.feed(&first).unwrap(), TEXT, "{coding}");
            let mut out = Vec::new();
            for byte in second {
                out.extend(decoder.feed(&[byte]).unwrap());
            }
            assert_eq!(out, TEXT, "{coding}");
        }
        assert_eq!(Coding::of(None, 1).feed(TEXT).unwrap(), TEXT);
    }

    #[test]
    fn too_much_or_damaged_is_opaque_from_there_on() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = bomb.finish().unwrap();
        let mut decoder = Coding::of(Some("gzip"), 100_000);
        assert!(decoder.feed(&bomb).is_err());
        assert!(decoder.feed(b"more").is_err());
        for coding in ["gzip", "deflate", "zstd", "br"] {
            let mut decoder = Coding::of(Some(coding), 1000);
            assert!(decoder.feed(&[0xff; 64]).is_err(), "{coding}");
        }
        assert!(Coding::of(Some("gzip, br"), 1000).feed(b"x").is_err());
    }

    #[test]
    fn the_ratio_is_that_of_the_whole_body() {
        let unpacked = |ratio: usize, piece: usize| {
            // Bytes that do not compress, and zeros that hardly take any.
            let mut noise = 1_u32;
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            for _ in 0..200 {
                let mut block = vec![0; 64 * ratio];
                block[..64].fill_with(|| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (noise >> 24) as u8
                });
                packed.write_all(&block).unwrap();
            }
            let packed = packed.finish().unwrap();
            let mut decoder = Coding::of(Some("gzip"), usize::MAX);
            let given: Result<Vec<_>, _> = packed.chunks(piece).map(|piece| decoder.feed(piece)).collect();
            given.map(|given| given.concat().len())
        };
        // However it is cut: no chunk of the second is large by itself.
        for piece in [10, 1_000, usize::MAX] {
            assert_eq!(unpacked(50, piece), Ok(200 * 64 * 50), "{piece}");
            assert!(unpacked(400, piece).is_err(), "{piece}");
        }
        let small = vec![0; RATIO_FREE_BYTES as usize];
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&small).unwrap();
        assert_eq!(Coding::of(Some("gzip"), usize::MAX).feed(&packed.finish().unwrap()).unwrap(), small);
    }
}
