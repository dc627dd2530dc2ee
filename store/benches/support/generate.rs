//! Deterministic events of about 1 KB for the benches: sessions of 40 interleaved events, Zipf words, a few numbers, paths,
//! addresses and hex words; ids as random as real ones. The input is the JSON line of each event, about 0.26 of its size
//! under `zstd -3`.

use threadline_schemas::{Collector, Kind, Outcome, Record, SourceKind, stamp};

/// Events of one session.
pub(crate) const SESSION_EVENTS: usize = 40;
const WORDS: usize = 60_000;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Of one thing in one session, wherever it is asked for.
    fn of(session: usize, thing: u64, number: usize) -> Random {
        let mut random = Random(session as u64 ^ (thing << 56) ^ ((number as u64) << 40));
        Random(random.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// Words by rank, and how likely each is.
pub(crate) struct Vocabulary {
    words: Vec<String>,
    cumulated: Vec<f64>,
}

impl Vocabulary {
    fn new() -> Vocabulary {
        let syllables = "ba co di fer gan hu in jo ker lo men nar op pre qui ra ser tion ul ver wa xi yor zen al be con de el \
                         fra gen ist able ing er ly tra sub pro ment ory";
        let syllables: Vec<&str> = syllables.split(' ').collect();
        let mut random = Random(42);
        let mut seen = std::collections::HashSet::new();
        let mut words = Vec::with_capacity(WORDS);
        while words.len() < WORDS {
            let count = 2 + random.below(3) + u64::from(words.len() > 20_000);
            let word: String = (0..count).map(|_| syllables[random.below(syllables.len() as u64) as usize]).collect();
            if seen.insert(word.clone()) {
                words.push(word);
            }
        }
        let mut total = 0.0;
        let mut cumulated: Vec<f64> = (1..=WORDS)
            .map(|rank| {
                total += 1.0 / rank as f64;
                total
            })
            .collect();
        cumulated.iter_mut().for_each(|c| *c /= total);
        Vocabulary { words, cumulated }
    }

    /// The word of a rank, 0 being the most frequent.
    pub(crate) fn word(&self, rank: usize) -> &str {
        &self.words[rank]
    }

    fn draw(&self, random: &mut Random) -> &str {
        let at = random.unit();
        &self.words[self.cumulated.partition_point(|c| *c < at).min(WORDS - 1)]
    }

    fn sentence(&self, count: u64, random: &mut Random, out: &mut String) {
        for n in 0..count {
            if n > 0 {
                out.push_str(if random.below(14) == 0 { ". " } else { " " });
            }
            match random.below(100) {
                0..=2 => out.push_str(&format!("{}", random.below(100_000))),
                3 => out.push_str(&format!("/srv/{}/{}.rs", self.draw(random), self.draw(random))),
                4 => out.push_str(&format!("10.{}.{}.{}", random.below(4), random.below(256), random.below(256))),
                5 => out.push_str(&format!("{:08x}", random.next() as u32)),
                _ => out.push_str(self.draw(random)),
            }
        }
    }
}

/// Where the generator stands.
pub(crate) struct Generator {
    pub(crate) vocabulary: Vocabulary,
    random: Random,
    next: usize,
    /// Sessions that run side by side.
    width: usize,
}

/// One event as a collector would hand it over, and the bytes it came as.
pub(crate) struct Event {
    pub(crate) record: Record,
    pub(crate) line_bytes: usize,
}

/// The conversation of a session.
pub(crate) fn conversation(session: usize) -> String {
    uuid(&mut Random::of(session, 0, 0))
}

/// A version 4 UUID.
fn uuid(random: &mut Random) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        random.next() as u32,
        random.below(1 << 16),
        random.below(1 << 12),
        random.below(1 << 12),
        random.below(1 << 48)
    )
}

/// As the Anthropic API writes them.
fn tool_call(random: &mut Random) -> String {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let letters = (0..22).map(|_| char::from(LETTERS[random.below(LETTERS.len() as u64) as usize]));
    format!("toolu_01{}", letters.collect::<String>())
}

/// A trace id.
fn hex_id(random: &mut Random) -> String {
    format!("{:016x}{:016x}", random.next(), random.next())
}

impl Generator {
    pub(crate) fn new() -> Generator {
        Generator { vocabulary: Vocabulary::new(), random: Random(7), next: 0, width: 500 }
    }

    /// The next event; sessions take turns, `width` at a time.
    pub(crate) fn event(&mut self) -> Event {
        let n = self.next;
        self.next += 1;
        let block = self.width * SESSION_EVENTS;
        let session = n / block * self.width + n % self.width;
        let step = n % block / self.width;
        let (words, random) = (&self.vocabulary, &mut self.random);
        let kind = if step.is_multiple_of(10) {
            Kind::Prompt
        } else if step % 2 == 1 {
            Kind::Call
        } else {
            Kind::Result
        };
        let time = 1_790_000_000_000_000_000 + n as i64 * 7_000_000 + random.below(7_000_000) as i64;
        let id = uuid(random);
        let conversation = conversation(session);
        let tool = format!("{}_{}", words.word(60 + session % 23), words.word(100 + step / 2));
        // A call and its result bear one id, five events in a row one trace.
        let tool_call = tool_call(&mut Random::of(session, 1, step.div_ceil(2)));
        let trace = hex_id(&mut Random::of(session, 2, step / 5));
        let span = format!("{:016x}", random.next());
        let parent = format!("{:016x}", Random::of(session, 3, step / 2).next());
        let request = uuid(random);
        let user = format!("user{:04}@corp.example", session % 4000);
        let mut text = String::new();
        let mut arguments = None;
        let mut result = None;
        match kind {
            Kind::Prompt => words.sentence(8 + random.below(40), random, &mut text),
            Kind::Call => {
                let mut query = String::new();
                words.sentence(20 + random.below(40), random, &mut query);
                let (a, b) = (words.draw(random), words.draw(random));
                arguments = Some(format!(
                    "{{\"path\":\"/srv/{a}/{b}\",\"limit\":{},\"query\":\"{query}\",\"recursive\":true}}",
                    random.below(500)
                ));
            }
            _ => {
                let mut body = String::new();
                words.sentence(24 + (random.unit() * random.unit() * 120.0) as u64, random, &mut body);
                result = Some(format!("{{\"content\":[{{\"type\":\"text\",\"text\":\"{body}\"}}],\"isError\":false}}"));
            }
        }
        let mut line = format!(
            "{{\"id\":\"{id}\",\"kind\":\"{kind}\",\"time_unix_nano\":\"{time}\",\"source_name\":\"host-{}\",\"server_name\":\"mcp-srv-{:02}\",\"tool_name\":\"{tool}\",\"conversation_id\":\"{conversation}\",\"tool_call_id\":\"{tool_call}\",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\",\"parent_span_id\":\"{parent}\",\"user_claimed\":\"{user}\",\"outcome\":\"ok\",\"duration_nano\":{},\"attributes\":{{\"host.name\":\"build-{:03}\",\"http.request.id\":\"{request}\",\"process.pid\":{}}}",
            session % 6,
            session % 40,
            random.below(4_000_000_000),
            session % 300,
            random.below(60_000)
        );
        if !text.is_empty() {
            line.push_str(&format!(",\"text\":\"{text}\""));
        }
        if let Some(arguments) = &arguments {
            line.push_str(&format!(",\"arguments\":{arguments}"));
        }
        if let Some(result) = &result {
            line.push_str(&format!(",\"result\":{result}"));
        }
        line.push('}');

        let mut record = Record::new("default", &format!("api:{id}"), kind);
        record.set_time(Some(time), time / 1000 + 1500);
        record.source_kind = SourceKind::Host;
        record.source_name = format!("host-{}", session % 6);
        record.collector = Collector::Api;
        record.decoder = "native".into();
        record.server_name = Some(format!("mcp-srv-{:02}", session % 40));
        record.tool_name = Some(tool);
        record.conversation_id = Some(conversation);
        record.tool_call_id = Some(tool_call);
        record.trace_id = Some(trace);
        record.span_id = Some(span);
        record.parent_span_id = Some(parent);
        record.user_claimed = Some(user);
        record.outcome = Some(Outcome::Ok);
        record.attributes =
            Some(format!("{{\"host.name\":\"build-{:03}\",\"http.request.id\":\"{request}\"}}", session % 300));
        record.text = (!text.is_empty()).then_some(text);
        record.arguments = arguments;
        record.result = result;
        stamp::stamp(&mut record);
        let line_bytes = line.len() + 1;
        record.raw = Some(line.into_bytes());
        Event { record, line_bytes }
    }
}
