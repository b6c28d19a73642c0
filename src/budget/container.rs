//! The limits of the container that the process runs in, out of the tables of Linux.
//!
//! A memory limit may stand at any ancestor of the process' control group (a pod's above its containers',
//! a slice's above its services'), and the least of them is what ends the process. Which directories these
//! are is told by `/proc/self/cgroup` (paths inside each hierarchy; cgroups(7)) and `/proc/self/mountinfo`
//! (where hierarchies are mounted, and which part of them; `proc_pid_mountinfo(5)`).

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// From here on a number means that there is no limit: cgroup v1 has 2^63 less a page for it, and no
/// machine has so much.
const NO_LIMIT: u64 = 1 << 62;

/// What the surroundings allow the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Container {
    /// Bytes of memory, and who says so; `None` where no limit is known.
    pub memory: Option<MemoryLimit>,
    /// Open files; `None` where there is no limit.
    pub descriptors: Option<u64>,
}

/// The least limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// In bytes.
    pub bytes: u64,
    /// Where it comes from.
    pub source: Source,
}

/// Who limits memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `memory.max` of cgroup v2, or `memory.limit_in_bytes` of v1.
    ControlGroup,
    /// `RLIMIT_DATA`.
    Data,
    /// `RLIMIT_AS`.
    AddressSpace,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlGroup => "cgroup",
            Self::Data => "RLIMIT_DATA",
            Self::AddressSpace => "RLIMIT_AS",
        })
    }
}

/// The limits of the process itself (getrlimit(2)), in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// `RLIMIT_DATA`: the heap and all private writable mappings.
    pub data: Option<u64>,
    /// `RLIMIT_AS`: everything that is mapped.
    pub address_space: Option<u64>,
}

/// The least memory limit. `read` gives the text of a file, if there is one.
pub fn memory_limit(
    limits: ResourceLimits,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<MemoryLimit> {
    let cgroup = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mountinfo = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let of_groups = limit_files(&cgroup, &mountinfo)
        .iter()
        .filter_map(|file| parse_limit(&read(file)?))
        .min();
    let candidates = [
        (of_groups, Source::ControlGroup),
        (limits.data, Source::Data),
        // Code, shared libraries, and ranges that allocators reserve without using them count here too:
        // as much again as what is used of it.
        (
            limits.address_space.map(|bytes| bytes / 2),
            Source::AddressSpace,
        ),
    ];
    candidates
        .into_iter()
        .filter_map(|(bytes, source)| {
            Some(MemoryLimit {
                bytes: bytes?,
                source,
            })
        })
        .min_by_key(|limit| limit.bytes)
}

/// The number in a limit file; `None` where it means that there is no limit, or means nothing.
fn parse_limit(text: &str) -> Option<u64> {
    let bytes = text.trim().parse().ok()?;
    (bytes < NO_LIMIT).then_some(bytes)
}

/// The files that may hold a limit of the process' control group or of an ancestor.
fn limit_files(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    let mut files = Vec::new();
    for group in cgroup.lines().filter_map(Group::parse) {
        for mount in mounts.iter().filter(|mount| mount.version == group.version) {
            let name = match group.version {
                Version::V1 => "memory.limit_in_bytes",
                Version::V2 => "memory.max",
            };
            let directories = mount.directories_of(&group.path);
            files.extend(directories.map(|directory| directory.join(name)));
        }
    }
    files
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The process' place in a hierarchy that may limit memory.
struct Group {
    version: Version,
    path: PathBuf,
}

impl Group {
    /// From `hierarchy:controllers:path`. The hierarchy of v2 is 0 and names no controllers.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let version = if hierarchy == "0" && controllers.is_empty() {
            Version::V2
        } else if names_memory(controllers) {
            Version::V1
        } else {
            return None;
        };
        Some(Self {
            version,
            path: path.into(),
        })
    }
}

fn names_memory(list: &str) -> bool {
    list.split(',').any(|name| name == "memory")
}

/// A mounted part of a hierarchy that may limit memory.
struct Mount {
    version: Version,
    /// The directory of the hierarchy that is seen at `point`.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// From `id parent device root point options [tags] - type source superoptions`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if names_memory(kind.nth(1)?) => Version::V1,
            _ => return None,
        };
        Some(Self {
            version,
            root: unescape(root).into(),
            point: unescape(point).into(),
        })
    }

    /// The directory of a group and those of its ancestors, as far as they can be seen. A group that is
    /// not below the root (a container with the host's `/proc`, or a namespace that was left) is taken
    /// for the root itself: what limits that limits the process.
    fn directories_of<'m>(&'m self, group: &Path) -> impl Iterator<Item = PathBuf> + use<'m> {
        let below = group.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let is_plain = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let below = if is_plain { below } else { Path::new("") };
        let ancestors: Vec<PathBuf> = below
            .ancestors()
            .map(|part| self.point.join(part))
            .collect();
        ancestors.into_iter()
    }
}

/// Spaces and the like are `\` and three octal digits in mountinfo.
fn unescape(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let (Some(code), Some(rest)) = (code, piece.get(3..)) {
            plain.push(char::from(code));
            plain.push_str(rest);
        } else {
            plain.push('\\');
            plain.push_str(piece);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{MemoryLimit, ResourceLimits, Source, limit_files, memory_limit, parse_limit};
    use std::path::{Path, PathBuf};

    const MIB: u64 = 1024 * 1024;
    const V1_NONE: &str = "9223372036854771712\n";

    /// Docker on a host with v1: the container sees its own group as the root of each mount, and the
    /// host's path in /proc/self/cgroup.
    const DOCKER_V1: (&str, &str) = (
        "12:pids:/docker/4f7c\n11:cpu,cpuacct:/docker/4f7c\n7:memory:/docker/4f7c\n1:name=systemd:/docker/4f7c\n0::/system.slice/containerd.service\n",
        "800 799 0:51 / / rw,relatime master:90 - overlay overlay rw,lowerdir=/a,upperdir=/b\n\
         810 800 0:54 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755\n\
         815 810 0:33 /docker/4f7c /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:16 - cgroup cgroup rw,memory\n\
         816 810 0:34 /docker/4f7c /sys/fs/cgroup/cpu,cpuacct ro,relatime master:17 - cgroup cgroup rw,cpu,cpuacct\n",
    );

    /// A container with a cgroup namespace of its own, v2.
    const NAMESPACE_V2: (&str, &str) = (
        "0::/\n",
        "1220 1219 0:31 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot\n",
    );

    /// A process on a host, or in a container that sees the host's tree, v2.
    const KUBEPODS_V2: (&str, &str) = (
        "0::/kubepods.slice/kubepods-burstable.slice/pod7d/cri-9a.scope\n",
        "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    const KUBEPODS_V1: (&str, &str) = (
        "4:memory:/kubepods/burstable/pod7d/9a\n",
        "35 24 0:30 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n",
    );

    /// v1 for the controllers, v2 beside it for systemd.
    const HYBRID: (&str, &str) = (
        "4:memory:/user.slice/run-1.scope\n1:name=systemd:/user.slice/run-1.scope\n0::/user.slice/run-1.scope\n",
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
         35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
         40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
    );

    #[test]
    fn limits_are_looked_for_at_every_ancestor() {
        let cases: [(&str, (&str, &str), &[&str]); 9] = [
            (
                "docker v1",
                DOCKER_V1,
                &["/sys/fs/cgroup/memory/memory.limit_in_bytes"],
            ),
            ("namespace v2", NAMESPACE_V2, &["/sys/fs/cgroup/memory.max"]),
            (
                "kubepods v2",
                KUBEPODS_V2,
                &[
                    "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/pod7d/cri-9a.scope/memory.max",
                    "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/pod7d/memory.max",
                    "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/memory.max",
                    "/sys/fs/cgroup/kubepods.slice/memory.max",
                    "/sys/fs/cgroup/memory.max",
                ],
            ),
            (
                "kubepods v1",
                KUBEPODS_V1,
                &[
                    "/sys/fs/cgroup/memory/kubepods/burstable/pod7d/9a/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/kubepods/burstable/pod7d/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/kubepods/burstable/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/kubepods/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                ],
            ),
            (
                "hybrid",
                HYBRID,
                &[
                    "/sys/fs/cgroup/memory/user.slice/run-1.scope/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/user.slice/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "/sys/fs/cgroup/unified/user.slice/run-1.scope/memory.max",
                    "/sys/fs/cgroup/unified/user.slice/memory.max",
                    "/sys/fs/cgroup/unified/memory.max",
                ],
            ),
            // The group was left for one outside of the namespace.
            (
                "outside of the namespace",
                ("0::/../../other\n", NAMESPACE_V2.1),
                &["/sys/fs/cgroup/memory.max"],
            ),
            (
                "a group that is not mounted",
                ("7:memory:/docker/other\n", DOCKER_V1.1),
                &["/sys/fs/cgroup/memory/memory.limit_in_bytes"],
            ),
            (
                "a space in the mount point",
                (
                    "0::/a\n",
                    "35 24 0:30 / /sys/fs/c\\040g rw - cgroup2 none rw\n",
                ),
                &["/sys/fs/c g/a/memory.max", "/sys/fs/c g/memory.max"],
            ),
            (
                "colons in a path",
                ("0::/a:b\n", NAMESPACE_V2.1),
                &["/sys/fs/cgroup/a:b/memory.max", "/sys/fs/cgroup/memory.max"],
            ),
        ];
        for (case, (cgroup, mountinfo), files) in cases {
            let files: Vec<PathBuf> = files.iter().map(Into::into).collect();
            assert_eq!(limit_files(cgroup, mountinfo), files, "{case}");
        }
    }

    #[test]
    fn tables_that_mean_nothing_have_no_limits() {
        for cgroup in [
            "",
            "\n",
            "0::",
            "memory:/",
            "4:memoryx:/a\n",
            "::",
            "4:memory\n",
        ] {
            for mountinfo in [
                "",
                "\n",
                " - ",
                "35 24 0:30 / /sys rw - ",
                "35 24 0:30 / /sys rw - cgroup",
                "35 24 0:30 / /sys rw - cgroup cgroup",
                "35 24 0:30 / /sys rw - cgroup cgroup rw,cpu",
                "35 24 - cgroup2 cgroup2 rw",
                "35 24 0:30 / /sys rw - tmpfs tmpfs rw,memory",
            ] {
                assert!(
                    limit_files(cgroup, mountinfo).is_empty(),
                    "{cgroup:?}, {mountinfo:?}"
                );
            }
            assert!(cgroup.starts_with("0::") || limit_files(cgroup, HYBRID.1).is_empty());
        }
    }

    #[test]
    fn numbers_of_limits_are_read() {
        for (text, limit) in [
            ("134217728\n", Some(128 * MIB)),
            ("0\n", Some(0)),
            ("max\n", None),
            (V1_NONE, None),
            ("18446744073709551615\n", None),
            ("", None),
            ("-1\n", None),
            ("128Mi\n", None),
        ] {
            assert_eq!(parse_limit(text), limit, "{text:?}");
        }
    }

    #[test]
    fn the_least_limit_counts() {
        type Files<'f> = &'f [(&'f str, &'f str)];
        type Case<'c> = (
            (&'c str, &'c str),
            Files<'c>,
            [Option<u64>; 2],
            Option<(u64, Source)>,
        );
        let group = |bytes| Some((bytes, Source::ControlGroup));
        let data = |bytes| Some((bytes, Source::Data));
        let mapped = |bytes| Some((bytes, Source::AddressSpace));
        let v2 = "/sys/fs/cgroup/memory.max";
        let pod = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/pod7d/memory.max";
        let container =
            "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/pod7d/cri-9a.scope/memory.max";
        let v1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let cases: [Case<'_>; 11] = [
            (("", ""), &[], [None, None], None),
            (NAMESPACE_V2, &[], [None, None], None),
            (NAMESPACE_V2, &[(v2, "max\n")], [None, None], None),
            (
                NAMESPACE_V2,
                &[(v2, "134217728\n")],
                [None, None],
                group(128 * MIB),
            ),
            (
                NAMESPACE_V2,
                &[(v2, "134217728\n")],
                [Some(MIB), None],
                data(MIB),
            ),
            (
                NAMESPACE_V2,
                &[(v2, "134217728\n")],
                [Some(129 * MIB), None],
                group(128 * MIB),
            ),
            (
                KUBEPODS_V2,
                &[(container, "max\n"), (pod, "268435456\n"), (v2, "max\n")],
                [None, None],
                group(256 * MIB),
            ),
            (
                KUBEPODS_V2,
                &[(container, "134217728\n"), (pod, "268435456\n")],
                [None, None],
                group(128 * MIB),
            ),
            (DOCKER_V1, &[(v1, V1_NONE)], [None, None], None),
            (
                DOCKER_V1,
                &[(v1, "67108864\n")],
                [None, Some(64 * MIB)],
                mapped(32 * MIB),
            ),
            (
                ("", ""),
                &[],
                [Some(2 * MIB), Some(3 * MIB)],
                mapped(3 * MIB / 2),
            ),
        ];
        for ((cgroup, mountinfo), files, [data, address_space], expected) in cases {
            let read = |path: &Path| match path.to_str()? {
                "/proc/self/cgroup" => Some(cgroup.to_owned()),
                "/proc/self/mountinfo" => Some(mountinfo.to_owned()),
                path => {
                    let found = files.iter().find(|(name, _)| *name == path)?;
                    Some(found.1.to_owned())
                }
            };
            let limits = ResourceLimits {
                data,
                address_space,
            };
            let expected = expected.map(|(bytes, source)| MemoryLimit { bytes, source });
            assert_eq!(memory_limit(limits, read), expected, "{files:?}");
        }
        assert_eq!(memory_limit(ResourceLimits::default(), |_| None), None);
    }
}
