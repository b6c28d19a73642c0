//! How large each budget is: one table, from the container's memory and the limit of open files.

use super::Budget;
use super::container::Container;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What the program itself takes before it has a client: its own pages, the stacks of its threads, trusted
/// roots, keys and configuration.
const BASE: u64 = 8 * MIB;

/// The budgets are so many parts each of what is left of the memory. All of them together are 48: a quarter
/// is left for what is counted in no budget: the kernel's socket buffers, which count in a control group,
/// and what the allocator cannot give back.
const PARTS: u64 = 64;

/// One client connection with a request that runs on a connection to the upstream of its own, in bytes: its
/// task, five buffers of 8 KiB, the future of its request (58 KiB, measured), and two of the kernel's sockets.
const CONNECTION: u64 = 64 * KIB;

/// One remembered proof, in bytes, with the growth of the tables that it is in.
const REPLAY_ENTRY: u64 = 128;

/// A part of the memory, and what the budget is where no limit is known.
struct Part {
    parts: u64,
    most: u64,
}

/// Heads of requests beyond the first 8 KiB of each, which its connection has anyway.
const HEADS: Part = Part {
    parts: 4,
    most: 64 * MIB,
};

/// MCP messages that are read before they are decided on. An eighth of it, which one caller has for sure,
/// holds a message of the usual `mcp.max_body` from 128 MiB of memory on.
const MESSAGES: Part = Part {
    parts: 6,
    most: 64 * MIB,
};

/// Answers that are read to take tools out of them.
const ANSWERS: Part = Part {
    parts: 4,
    most: 64 * MIB,
};

/// Bodies on their way, in both directions, beyond the first 8 KiB of each connection.
const BUFFERS: Part = Part {
    parts: 5,
    most: 256 * MIB,
};

/// Client connections, and the connections to the upstream that answer them.
const CONNECTIONS: Part = Part {
    parts: 24,
    most: 10_000 * CONNECTION,
};

/// Verified tokens that are remembered.
const TOKEN_CACHE: Part = Part {
    parts: 3,
    most: 24 * MIB,
};

/// Proofs that are remembered.
const REPLAYS: Part = Part {
    parts: 2,
    most: u64::MAX,
};

/// Descriptors for everything but clients and what they cause: both listeners, probes, key fetches, reading
/// the configuration anew, the log. Of those, probes alone may be 64.
const RESERVED_DESCRIPTORS: u64 = 64;

/// Each worker thread has a runtime, whose selector and wakers are open files too, and looks up names.
const DESCRIPTORS_PER_WORKER: u64 = 4;

/// The reserve is never less than this, whatever the number of threads.
const LEAST_RESERVED_DESCRIPTORS: u64 = 128;

/// How large the budgets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of request heads, of all connections together.
    pub head_bytes: usize,
    /// Bytes of MCP messages that are read.
    pub message_bytes: usize,
    /// Bytes of answers that are read to be filtered.
    pub answer_bytes: usize,
    /// Bytes of bodies that are on their way.
    pub buffer_bytes: usize,
    /// Client connections at a time.
    pub client_connections: usize,
    /// Connections to the upstream at a time, idle ones included.
    pub upstream_connections: usize,
    /// Descriptors that neither kind of connection takes.
    pub reserved_descriptors: usize,
    /// Bytes of remembered tokens.
    pub token_cache_bytes: usize,
    /// The most proofs that are remembered, whatever is configured.
    pub replay_entries: usize,
}

impl Sizes {
    /// The sizes for these limits, with so many worker threads and so many client connections wanted
    /// (`limits.connections`).
    #[must_use]
    pub fn within(container: &Container, workers: usize, connections: usize) -> Self {
        let memory = container.memory.map(|limit| limit.bytes);
        let left = memory.map(|bytes| bytes.saturating_sub(BASE));
        let bytes = |part: &Part| left.map_or(part.most, |left| part.of(left));
        let by_memory = left.map_or(usize::MAX, |left| {
            size(CONNECTIONS.uncapped(left) / CONNECTION)
        });
        let reserved = workers_reserve(workers);
        let descriptors = container
            .descriptors
            .map(|all| all.saturating_sub(reserved));
        // Each client's request may need a connection to the upstream.
        let by_descriptors = descriptors.map_or(usize::MAX, |rest| size(rest / 2));
        let client_connections = connections.min(by_memory).min(by_descriptors).max(1);
        let rest = descriptors.map_or(usize::MAX, |rest| size(rest.saturating_sub(rest / 2)));
        Self {
            head_bytes: size(bytes(&HEADS)),
            message_bytes: size(bytes(&MESSAGES)),
            answer_bytes: size(bytes(&ANSWERS)),
            buffer_bytes: size(bytes(&BUFFERS)),
            client_connections,
            upstream_connections: size(CONNECTIONS.most / CONNECTION)
                .max(connections)
                .min(by_memory)
                .min(rest)
                .max(1),
            reserved_descriptors: size(reserved),
            token_cache_bytes: size(bytes(&TOKEN_CACHE)),
            replay_entries: size(bytes(&REPLAYS) / REPLAY_ENTRY),
        }
    }
}

impl Part {
    fn of(&self, left: u64) -> u64 {
        self.uncapped(left).min(self.most)
    }

    const fn uncapped(&self, left: u64) -> u64 {
        (left / PARTS).saturating_mul(self.parts)
    }
}

fn workers_reserve(workers: usize) -> u64 {
    let workers = u64::try_from(workers).unwrap_or(u64::MAX);
    let of_workers = workers.saturating_mul(DESCRIPTORS_PER_WORKER);
    RESERVED_DESCRIPTORS
        .saturating_add(of_workers)
        .max(LEAST_RESERVED_DESCRIPTORS)
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The budgets of a process. Clones are the same budgets.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// How large they are.
    pub sizes: Sizes,
    /// [`Sizes::client_connections`], and streams of HTTP/2 beyond the first of each connection.
    pub connections: Budget,
    /// [`Sizes::head_bytes`].
    pub heads: Budget,
    /// [`Sizes::message_bytes`].
    pub messages: Budget,
    /// [`Sizes::answer_bytes`].
    pub answers: Budget,
    /// [`Sizes::buffer_bytes`].
    pub buffers: Budget,
    /// [`Sizes::upstream_connections`].
    pub upstream_connections: Budget,
}

impl Budgets {
    /// Budgets of these sizes.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        Self {
            connections: Budget::new("connections", sizes.client_connections),
            heads: Budget::new("head_bytes", sizes.head_bytes),
            messages: Budget::new("message_bytes", sizes.message_bytes),
            answers: Budget::new("answer_bytes", sizes.answer_bytes),
            buffers: Budget::new("buffer_bytes", sizes.buffer_bytes),
            upstream_connections: Budget::new("upstream_connections", sizes.upstream_connections),
            sizes,
        }
    }

    /// All budgets, for the log and the metrics.
    #[must_use]
    pub const fn all(&self) -> [&Budget; 6] {
        [
            &self.connections,
            &self.heads,
            &self.messages,
            &self.answers,
            &self.buffers,
            &self.upstream_connections,
        ]
    }
}

impl Default for Budgets {
    /// For a process whose surroundings set no limit.
    fn default() -> Self {
        let connections = size(CONNECTIONS.most / CONNECTION);
        Self::new(Sizes::within(&Container::default(), 1, connections))
    }
}

#[cfg(test)]
mod tests {
    use super::super::container::{Container, MemoryLimit, Source};
    use super::{
        ANSWERS, BASE, BUFFERS, Budgets, CONNECTION, CONNECTIONS, HEADS, KIB, MESSAGES, MIB, PARTS,
        REPLAY_ENTRY, REPLAYS, Sizes, TOKEN_CACHE,
    };

    fn container(mib: Option<u64>, descriptors: Option<u64>) -> Container {
        Container {
            memory: mib.map(|mib| MemoryLimit {
                bytes: mib * MIB,
                source: Source::ControlGroup,
            }),
            descriptors,
        }
    }

    fn bytes(size: usize) -> u64 {
        u64::try_from(size).expect("a small number")
    }

    /// Everything that a process with these sizes holds when all budgets are used up.
    fn sum(sizes: &Sizes) -> u64 {
        let connections = sizes.client_connections.max(sizes.upstream_connections);
        BASE + bytes(connections) * CONNECTION
            + bytes(sizes.head_bytes)
            + bytes(sizes.message_bytes)
            + bytes(sizes.answer_bytes)
            + bytes(sizes.buffer_bytes)
            + bytes(sizes.token_cache_bytes)
            + bytes(sizes.replay_entries) * REPLAY_ENTRY
    }

    #[test]
    fn all_budgets_together_leave_a_fifth_of_the_memory() {
        let parts: u64 = [
            HEADS,
            MESSAGES,
            ANSWERS,
            BUFFERS,
            CONNECTIONS,
            TOKEN_CACHE,
            REPLAYS,
        ]
        .iter()
        .map(|part| part.parts)
        .sum();
        assert_eq!(parts * 4, PARTS * 3);
        for mib in [40, 64, 100, 128, 256, 512, 1024, 4096] {
            let sizes = Sizes::within(&container(Some(mib), None), 2, 10_000);
            assert!(sum(&sizes) * 5 <= mib * MIB * 4, "{mib}: {sizes:?}");
        }
    }

    #[test]
    fn little_memory_leaves_little_and_never_nothing_to_connect_with() {
        for mib in [0, 1, 8, 9, 16, 32] {
            for descriptors in [None, Some(0), Some(64), Some(128), Some(130)] {
                let sizes = Sizes::within(&container(Some(mib), descriptors), 2, 10_000);
                assert!(sizes.client_connections >= 1 && sizes.upstream_connections >= 1);
            }
            let sizes = Sizes::within(&container(Some(mib), None), 2, 10_000);
            let one = 2 * CONNECTION;
            assert!(
                sum(&sizes) <= (mib * MIB).max(BASE) + one,
                "{mib}: {sizes:?}"
            );
        }
    }

    #[test]
    fn descriptors_bound_both_kinds_of_connection() {
        for (descriptors, workers, wanted, clients, upstream) in [
            (0, 2, 10_000, 1, 1),
            (64, 2, 10_000, 1, 1),
            (128, 2, 10_000, 1, 1),
            (130, 2, 10_000, 1, 1),
            (131, 2, 10_000, 1, 2),
            (132, 2, 10_000, 2, 2),
            (1024, 1, 10_000, 448, 448),
            (1024, 16, 10_000, 448, 448),
            (1024, 64, 10_000, 352, 352),
            (1024, 2, 100, 100, 448),
            (20_128, 2, 10_000, 10_000, 10_000),
            (1_000_000, 2, 10_000, 10_000, 10_000),
            (1_000_000, 2, 100_000, 100_000, 100_000),
            (u64::MAX, usize::MAX, usize::MAX, 1, 1),
        ] {
            let sizes = Sizes::within(&container(None, Some(descriptors)), workers, wanted);
            let row = (descriptors, workers, wanted);
            assert_eq!(
                (sizes.client_connections, sizes.upstream_connections),
                (clients, upstream),
                "{row:?}"
            );
            let all = (bytes(clients) + bytes(upstream))
                .saturating_add(bytes(sizes.reserved_descriptors));
            assert!(
                all <= descriptors.max(bytes(sizes.reserved_descriptors).saturating_add(2)),
                "{row:?}"
            );
        }
    }

    #[test]
    fn without_a_limit_of_memory_sizes_are_the_defaults() {
        let sizes = Budgets::default().sizes;
        assert_eq!(sizes, Sizes::within(&container(None, None), 1, 10_000));
        assert_eq!(sizes.client_connections, 10_000);
        assert_eq!(sizes.upstream_connections, 10_000);
        assert_eq!(bytes(sizes.message_bytes), 64 * MIB);
        assert_eq!(bytes(sizes.token_cache_bytes), 24 * MIB);
        assert!(sizes.replay_entries > 1_000_000_000);
        // Nor does plenty of memory make them larger.
        let plenty = Sizes::within(&container(Some(1 << 20), None), 1, 10_000);
        assert_eq!(plenty.head_bytes, sizes.head_bytes);
        assert_eq!(plenty.client_connections, sizes.client_connections);
    }

    /// Row by row, as `docs/limits.md` has it.
    #[test]
    fn the_table_in_the_documentation_is_this_one() {
        let columns: Vec<Sizes> = [Some(64), Some(128), Some(512), None]
            .map(|mib| Sizes::within(&container(mib, None), 2, 10_000))
            .into();
        let mib = |amount: u64| format!("{}.{} MiB", amount / MIB, amount % MIB * 10 / MIB);
        let row = |name: &str, cell: &dyn Fn(&Sizes) -> String, without: &str, parts: &str| {
            let cells: Vec<String> = columns.iter().take(3).map(cell).collect();
            format!("| {name} | {} | {without} | {parts} |", cells.join(" | "))
        };
        let in_bytes = |name: &str, part: &super::Part, of: fn(&Sizes) -> usize| {
            let none = columns.last().map(of).map(bytes);
            assert_eq!(none, Some(part.most), "{name}");
            let none = format!("{} MiB", part.most / MIB);
            row(
                name,
                &|sizes| mib(bytes(of(sizes))),
                &none,
                &part.parts.to_string(),
            )
        };
        let rest = |memory: u64, sizes: &Sizes| mib(memory * MIB - sum(sizes));
        let rests: Vec<String> = [64, 128, 512]
            .iter()
            .zip(&columns)
            .map(|(memory, sizes)| rest(*memory, sizes))
            .collect();
        let rows = [
            row(
                "client connections, each with one to the upstream",
                &|sizes| sizes.client_connections.to_string(),
                "`limits.connections`",
                &format!("{}, at {} KiB", CONNECTIONS.parts, CONNECTION / KIB),
            ),
            in_bytes(
                "heads of requests, beyond the first 8 KiB of each",
                &HEADS,
                |sizes| sizes.head_bytes,
            ),
            in_bytes("MCP messages that are read", &MESSAGES, |sizes| {
                sizes.message_bytes
            }),
            in_bytes("answers that are read to be filtered", &ANSWERS, |sizes| {
                sizes.answer_bytes
            }),
            in_bytes(
                "bodies on their way, beyond the first 8 KiB of each connection",
                &BUFFERS,
                |sizes| sizes.buffer_bytes,
            ),
            in_bytes(
                "verified tokens that are remembered",
                &TOKEN_CACHE,
                |sizes| sizes.token_cache_bytes,
            ),
            row(
                "proofs that are remembered (`dpop.replay_cache` if that is less)",
                &|sizes| sizes.replay_entries.to_string(),
                "`dpop.replay_cache`",
                &format!("{}, at {REPLAY_ENTRY} bytes", REPLAYS.parts),
            ),
            format!("| in no budget | {} | | {} |", rests.join(" | "), PARTS / 4),
        ];
        let documentation = include_str!("../../docs/limits.md");
        let table: Vec<&str> = documentation
            .lines()
            .skip_while(|line| !line.starts_with("|---"))
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert_eq!(table, rows);
    }
}
