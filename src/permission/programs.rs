//! What is known about programs and about the shells' own words, as data: what runs other commands,
//! which options write or run, what reads files. What rules allow and what they deny is judged by the
//! same rows. What is not here counts as a program that does what its name says. Pure.

use std::{collections::HashMap, sync::LazyLock};

/// How the words behind a name are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A word of the shell's grammar behind which a command begins.
    Leads,
    /// A word of a shell's grammar behind which shells read on in ways that are not understood here.
    Differs,
    /// Runs a command that its further words name; any of them may begin it.
    Wraps,
    /// The same, and adds words of which nothing is known.
    Feeds,
    /// The same, and a shell reads the words.
    WrapsLines,
    /// Reads a script: by `-c`, from a file, or from its input.
    Shell,
    /// A shell that reads differently.
    OtherShell,
    /// Its words are a command line.
    Evaluates,
    /// Its words may each be a command line.
    Keeps,
    /// Reads commands from a file.
    Sources,
    /// Changes what later words mean, evaluates its words in ways that are not understood here, or
    /// runs commands later.
    Changes,
    /// Its words may be arithmetic, which runs what is in the index of an array.
    Computes,
    /// Compares, and may do it by arithmetic.
    Tests,
    /// Sets variables that are its further words.
    Sets,
    /// Sets options of the shell.
    Options,
    /// A word of the shell that runs nothing.
    Plain,
}

impl Role {
    /// Whether a command may stand in the words behind it.
    pub(super) fn runs_others(self) -> bool {
        matches!(
            self,
            Role::Leads
                | Role::Wraps
                | Role::Feeds
                | Role::WrapsLines
                | Role::Shell
                | Role::OtherShell
                | Role::Evaluates
                | Role::Keeps
                | Role::Sources
        )
    }
}

/// Names, what they are, and the document that says so.
pub(super) type Row = (&'static str, Role, &'static str);

const POSIX: &str = "POSIX, Shell Command Language";
const BASH: &str = "bash(1)";
const ZSH: &str = "zshbuiltins(1), zshmisc(1)";
const KSH: &str = "ksh(1), mksh(1)";
const UTIL_LINUX: &str = "util-linux";

/// Programs and words of shells by what they do with their further words.
pub(super) const ROLES: &[Row] = &[
    ("! do elif else if then until while", Role::Leads, POSIX),
    ("case", Role::Differs, POSIX),
    ("[[ coproc function select", Role::Differs, "bash(1), Compound Commands"),
    ("always end float foreach integer nocorrect private repeat", Role::Differs, "zshmisc(1)"),
    ("namespace", Role::Differs, "ksh(1)"),
    ("done esac fi for in {  } ]]", Role::Plain, POSIX),
    ("- builtin command exec jobs noglob rtk time", Role::Wraps, "bash(1), zshmisc(1)"),
    ("and begin hup not or", Role::Wraps, "fish(1)"),
    ("chroot env nice nohup stdbuf timeout gtimeout gnice gstdbuf", Role::Wraps, "GNU coreutils"),
    ("chrt ionice nsenter prlimit setarch setpriv setsid taskset unshare", Role::Wraps, UTIL_LINUX),
    ("doas pkexec sudo systemd-run dbus-run-session", Role::Wraps, "their manual pages"),
    ("ltrace numactl strace gtime busybox toybox", Role::Wraps, "their manual pages"),
    ("caffeinate faketime firejail proxychains unbuffer", Role::Wraps, "their manual pages"),
    (
        "arch bwrap chronic cpulimit dbus-launch direnv dumb-init eatmydata fakeroot gosu ifne \
         linux32 linux64 mise perf pipenv poetry proot rlwrap run0 sandbox-exec setuidgid softlimit \
         ssh-agent su-exec tini torsocks uv valgrind xcrun xvfb-run",
        Role::Wraps,
        "their manual pages",
    ),
    ("xargs gxargs", Role::Feeds, "xargs(1)"),
    ("parallel", Role::WrapsLines, "parallel(1)"),
    (
        "entr flock hyperfine nix-shell nodemon runuser screen script sg su tmux watch watchexec",
        Role::WrapsLines,
        "their manual pages",
    ),
    ("ash bash dash ksh ksh93 mksh rbash sh yash zsh", Role::Shell, "sh(1)"),
    ("csh elvish fish nu pwsh tcsh xonsh", Role::OtherShell, "csh(1), fish(1)"),
    ("eval", Role::Evaluates, POSIX),
    ("trap", Role::Keeps, POSIX),
    (". source", Role::Sources, POSIX),
    (
        "alias bind compgen complete compopt enable hash let mapfile readarray shopt",
        Role::Changes,
        BASH,
    ),
    ("fc history unalias", Role::Changes, BASH),
    (
        "autoload bindkey compadd comparguments compcall compctl compdescribe compfiles compgroups",
        Role::Changes,
        ZSH,
    ),
    (
        "compquote compset comptags comptry compvalues disable echotc echoti emulate functions getln",
        Role::Changes,
        ZSH,
    ),
    (
        "print pushln r rehash sched setopt unfunction unhash unsetopt vared zcompile zformat zle",
        Role::Changes,
        ZSH,
    ),
    ("zmodload zparseopts zregexparse zstyle", Role::Changes, ZSH),
    ("compound enum global hist nameref rename redirect", Role::Changes, KSH),
    (
        "@ alloc builtins filetest glob onintr setenv settc setty switch telltc uncomplete unsetenv",
        Role::Changes,
        "csh(1)",
    ),
    ("declare export local read readonly typeset unset", Role::Sets, POSIX),
    ("[ test", Role::Tests, POSIX),
    ("at batch crontab", Role::Changes, "at(1), crontab(1)"),
    ("set", Role::Options, POSIX),
    ("break continue exit printf return shift ulimit umask wait", Role::Computes, POSIX),
    ("bye dirs getopts limit logout popd pushd unlimit", Role::Computes, "bash(1), zshbuiltins(1)"),
    (": bg cd chdir echo false fg kill pwd sleep times true type", Role::Plain, POSIX),
    (
        "breaksw caller default disown endif endsw goto hashstat help log login ls-F notify printenv stop suspend termname ttyctl whence where which",
        Role::Plain,
        "bash(1), zshbuiltins(1)",
    ),
];

/// Variables that make a shell or a program run something, or read names in another way. A star
/// stands for any text.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    (
        "PATH HOME IFS ENV SHELL SHELLOPTS BASHOPTS CDPATH PROMPT_COMMAND PS0 PS1 PS2 PS3 PS4 BASH_* EXECIGNORE",
        BASH,
    ),
    ("FPATH ZDOTDIR NULLCMD READNULLCMD POSTEDIT FCEDIT fpath path prompt", "zshparam(1)"),
    ("LD_* DYLD_*", "ld.so(8)"),
    ("GIT_* SSH_ASKPASS", "git(1)"),
    ("*PAGER *EDITOR VISUAL BROWSER LESS*", "less(1), environ(7)"),
    (
        "*_OPTIONS *OPT *OPTS *FLAGS *_WRAPPER *_RUNNER *_LINKER *_CONFIG*",
        "the manuals of node, perl, tar, make, cargo, npm",
    ),
    (
        "RSYNC_* CVS_RSH TAR_* PYTHON* PERL* RUBY* NODE_* CARGO_* RUSTC RUSTDOC npm_* NPM_*",
        "the manuals of the programs",
    ),
    ("CC CXX LD AR MAKE CMAKE_* GO* JAVA_* MAVEN_* GRADLE_* AWK*", "the manuals of the programs"),
];

/// What an argument makes a program do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// It writes, changes or removes files.
    Writes,
    /// It runs other commands, or code from elsewhere.
    Runs,
}

/// Arguments that make programs do more than what their names say. A long option may be cut short, a
/// short one may stand among others. `run!` is a whole word, `of=` begins one, and `#2` is the second
/// word that is no option.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) programs: &'static str,
    /// Only behind this word; [`FIRST`]: only before the first word that is no option.
    pub(super) after: &'static str,
    /// Options that take the next word.
    pub(super) values: &'static str,
    pub(super) arguments: &'static str,
    pub(super) does: Does,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the documentation, which a test compares")
    )]
    pub(super) source: &'static str,
}

pub(super) const FIRST: &str = "(first)";

const fn writes(programs: &'static str, arguments: &'static str, source: &'static str) -> Options {
    Options { programs, after: "", values: "", arguments, does: Does::Writes, source }
}

const fn runs(programs: &'static str, arguments: &'static str, source: &'static str) -> Options {
    Options { programs, after: "", values: "", arguments, does: Does::Runs, source }
}

impl Options {
    const fn after(self, after: &'static str) -> Options {
        Options { after, ..self }
    }

    const fn values(self, values: &'static str) -> Options {
        Options { values, ..self }
    }

    const fn first(self, values: &'static str) -> Options {
        Options { after: FIRST, values, ..self }
    }
}

pub(super) const OPTIONS: &[Options] = &[
    runs("ack ag", "--pager", "ack(1), ag(1)"),
    runs("awk gawk mawk nawk", "-f --file -i --include -l --load -E --exec -D --debug", "gawk(1)"),
    writes("awk gawk mawk nawk", "-o --pretty-print -p --profile -d --dump-variables", "gawk(1)"),
    runs("bat batcat", "--pager", "bat(1)"),
    runs("cargo", "--config --manifest-path -Z", "cargo(1)"),
    writes("cargo", "--target-dir --artifact-dir --out-dir --fix", "cargo-build(1), cargo clippy --help"),
    runs("cpio", "--rsh-command", "cpio(1)"),
    writes("curl", "-o --output -O --remote-name --remote-name-all --output-dir -c --cookie-jar -D --dump-header --trace --trace-ascii --libcurl --stderr --hsts --alt-svc --etag-save -w --write-out", "curl(1); `%output{}` in what -w writes"),
    runs("curl", "-K --config -T --upload-file --engine", "curl(1)"),
    writes("dd", "of=", "dd(1)"),
    runs("diff3 sdiff", "--diff-program", "diff3(1), sdiff(1)"),
    writes("sdiff", "-o --output", "sdiff(1)"),
    runs("env", "-S --split-string", "env(1)"),
    writes("eslint prettier", "--fix --output-file -o --write -w", "eslint --help, prettier --help"),
    runs("eslint prettier jest mocha vitest", "--config -c --plugin --parser --resolve-plugins-relative-to --rulesdir --require -r --globalSetup --setupFiles", "their own --help"),
    runs("eslint", "-f --format", "eslint --help: a formatter is code"),
    runs("fd fdfind", "-x --exec -X --exec-batch", "fd(1)"),
    writes("file", "-C --compile", "file(1)"),
    runs("find gfind", "-exec! -execdir! -ok! -okdir!", "find(1)"),
    writes("find gfind", "-delete! -fprint! -fprint0! -fprintf! -fls!", "find(1)"),
    runs("git", "-c --config-env --exec-path --git-dir --work-tree", "git(1)").first("-C -c --git-dir --work-tree --namespace --config-env --attr-source"),
    writes("git", "--output", "git-diff(1)"),
    runs("git", "--ext-diff", "git-diff(1)"),
    runs("git", "--upload-pack --receive-pack --exec", "git-fetch(1), git-push(1), git-archive(1)"),
    writes("git", "-o --output", "git-archive(1)").after("archive"),
    runs("git", "run!", "git-bisect(1)").after("bisect"),
    runs("git", "-c --config --template -u", "git-clone(1)").after("clone"),
    runs("git", "-x --extcmd", "git-difftool(1)").after("difftool"),
    runs("git", "--setup --env-filter --tree-filter --index-filter --parent-filter --msg-filter --commit-filter --tag-name-filter", "git-filter-branch(1)").after("filter-branch"),
    writes("git", "--export-marks", "git-fast-export(1)").after("fast-export"),
    runs("git", "--config", "git-for-each-repo(1)").after("for-each-repo"),
    writes("git", "-o --output-directory", "git-format-patch(1)").after("format-patch"),
    runs("git", "-O --open-files-in-pager", "git-grep(1)").after("grep"),
    runs("git", "-x --exec", "git-rebase(1)").after("rebase"),
    runs("git", "--sendmail-cmd --smtp-server --to-cmd --cc-cmd --header-cmd", "git-send-email(1)").after("send-email"),
    runs("git", "foreach!", "git-submodule(1)").after("submodule"),
    runs("go", "-exec! -toolexec! -vettool! -overlay! -modfile! --exec --toolexec --vettool --overlay --modfile", "go help build, go help vet"),
    writes("go", "-o! -coverprofile! -cpuprofile! -memprofile! -blockprofile! -mutexprofile! -trace! -outputdir!", "go help testflag"),
    writes("gpg", "-o --output", "gpg(1)"),
    writes("iconv", "-o --output", "iconv(1)"),
    runs("less more", "-k --lesskey-file --lesskey-src --lesskey-content", "less(1)"),
    writes("less more", "-o -O --log-file --LOG-FILE", "less(1)"),
    runs("make gmake", "-f --file --makefile -C --directory --eval -I --include-dir SHELL= MAKEFLAGS= MAKEFILES=", "make(1)"),
    runs("man", "-P --pager -H --html -C --config-file", "man(1)"),
    runs("nc ncat netcat", "-e -c --exec --sh-exec --lua-exec", "nc(1), ncat(1)"),
    runs("npm npx pnpm yarn", "--script-shell --prefix -C --dir --cwd --node-options --userconfig --globalconfig --shell --git --editor --viewer", "npm-config(7)"),
    writes("openssl", "-out!", "openssl(1)"),
    writes("patch", "-o --output -r --reject-file -d --directory", "patch(1)"),
    runs("pytest py.test", "-p -c --config-file --rootdir --confcutdir -o --override-ini --pdbcls", "pytest --help"),
    writes("pytest py.test", "--basetemp --junitxml --junit-xml --log-file", "pytest --help"),
    runs("rg", "--pre --hostname-bin", "rg(1)"),
    runs("rpm", "--pipe -E --eval -D --define --load", "rpm(8): macros run commands"),
    runs("rsync", "-e --rsh --rsync-path --early-exec", "rsync(1)"),
    writes("rsync", "--delete --remove-source-files --log-file --write-batch --only-write-batch --backup-dir", "rsync(1)"),
    runs("scp sftp ssh", "-o -F -S -D", "ssh_config(5): ProxyCommand, LocalCommand"),
    writes("ruff", "--fix --output-file -o", "ruff check --help"),
    writes("ssh", "-E", "ssh(1)"),
    writes("sed gsed", "-i --in-place", "sed(1)"),
    runs("sed gsed", "-f --file", "sed(1)"),
    writes("shuf gshuf", "-o --output", "shuf(1)"),
    writes("strace ltrace", "-o --output", "strace(1), ltrace(1)"),
    writes("sort gsort", "-o --output", "sort(1)"),
    runs("sort gsort", "--compress-program", "sort(1)"),
    runs("split gsplit", "--filter", "split(1)"),
    runs("tar bsdtar gtar", "-I --use-compress-program --checkpoint-action --to-command --rsh-command --rmt-command -F --info-script --new-volume-script", "tar(1)"),
    runs("tcpdump", "-z --postrotate-command", "tcpdump(8)"),
    writes("tcpdump", "-w", "tcpdump(8)"),
    writes("tree", "-o", "tree(1)"),
    runs("ugrep ug", "--pager --view --filter --save-config --config", "ugrep(1)"),
    writes("uniq", "#2", "uniq(1)").values("-f -s -w --skip-fields --skip-chars --check-chars"),
    runs("wget", "-e --execute --use-askpass --config --post-file --body-file -i --input-file", "wget(1)"),
    writes("wget", "-O --output-document -o --output-file -a --append-output -P --directory-prefix --save-cookies --warc-file", "wget(1)"),
    runs("xargs gxargs", "-I --replace -i -J", "xargs(1)"),
    writes("xxd", "#2", "xxd(1)").values("-c -cols -g -groupsize -l -len -n -name -o -s -seek"),
    writes("yq", "-i --inplace --in-place", "yq --help"),
    runs("zip", "-T --test --unzip-command", "zip(1): -T with -TT"),
];

/// The language of a program's first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Sed,
    Awk,
}

/// Programs of whose scripts it is known what only reads.
pub(super) const SCRIPTS: &[(&str, Script, &str)] = &[
    ("sed gsed", Script::Sed, "sed(1): commands `e` and `w`, and the flags of `s` of that name"),
    ("awk gawk mawk nawk", Script::Awk, "gawk(1): `system()`, pipes, redirections, `getline`, `@`"),
];

/// Which words of a program that are no options are files that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operands {
    All,
    /// Not the first one, which is what it looks for or does.
    AfterFirst,
}

/// Programs that read the files which they are given.
pub(super) const READERS: &[(&str, Operands, &str)] = &[
    (
        "base32 base64 cat cksum comm cut expand fmt fold head join md5sum nl od paste pr sha1sum sha256sum sha512sum shuf sort split sum tac tail tsort unexpand uniq wc",
        Operands::All,
        "GNU coreutils",
    ),
    ("cp dd install ln mv", Operands::All, "GNU coreutils: what is copied, linked or moved"),
    ("bat batcat less more most view", Operands::All, "their manual pages"),
    ("cmp colordiff diff diff3 patch sdiff", Operands::All, "GNU diffutils"),
    ("column hexdump look rev", Operands::All, "util-linux"),
    ("file iconv strings xxd", Operands::All, "their manual pages"),
    (
        "bunzip2 bzcat bzip2 gunzip gzip lz4 unxz xz xzcat zcat zless zmore zstd zstdcat",
        Operands::All,
        "gzip(1), xz(1), zstd(1)",
    ),
    (
        "7z bsdtar cpio rsync scp tar zip",
        Operands::All,
        "their manual pages: what is packed or sent",
    ),
    ("gpg openssl ssh-add ssh-keygen", Operands::All, "their manual pages"),
    (
        "ack ag awk egrep fgrep gawk git-grep grep jq mawk nawk perl rg sed ugrep yq zgrep",
        Operands::AfterFirst,
        "their manual pages",
    ),
    (". source", Operands::All, "POSIX, Shell Command Language"),
];

/// Programs that change none of the files which they are given, but by their [`OPTIONS`] and
/// [`SCRIPTS`].
pub(super) const KEEPERS: &[(&str, &str)] = &[
    (
        "base32 base64 basename cat cksum comm cut dirname du echo expand fmt fold head join ls md5sum nl od paste pr printf pwd readlink realpath sha1sum sha256sum sha512sum shuf sort stat sum tac tail test tsort unexpand wc",
        "GNU coreutils",
    ),
    ("awk egrep fgrep gawk grep mawk nawk sed zgrep", "their manual pages"),
    ("ack ag bat batcat fd fdfind find git-grep jq less more rg tree", "their manual pages"),
    ("bzcat xzcat zcat zless zmore zstdcat", "gzip(1), xz(1), zstd(1)"),
    ("cmp colordiff diff diff3 sdiff", "GNU diffutils"),
    ("column file hexdump look rev strings", "their manual pages"),
    ("cd chdir popd pushd type which", "POSIX, Shell Command Language; which(1)"),
];

/// Readers that read all that is in a directory, or put it elsewhere, and those that do so with an
/// option.
pub(super) const TREES: &[(&str, &str)] = &[
    ("ack ag rg ugrep git-grep bsdtar tar 7z rsync ln mv", ""),
    (
        "cp diff egrep fgrep grep scp zgrep zip",
        "-r -R -a --recursive --archive --directories=recurse",
    ),
];

/// Options by which a program, and what it runs, works in another directory; of their manual pages.
pub(super) const DIRECTORIES: &[(&str, &str)] = &[
    ("bwrap", "--chdir"),
    ("env", "-C --chdir"),
    ("git", "-C"),
    ("nsenter unshare", "-w --wd"),
    ("sudo", "-D --chdir"),
    ("systemd-run", "--working-directory"),
];

static BY_NAME: LazyLock<HashMap<&str, Role>> = LazyLock::new(|| {
    let each = |row: &'static Row| row.0.split_whitespace().map(|name| (name, row.1));
    ROLES.iter().flat_map(each).collect()
});

pub(super) fn role(name: &str) -> Option<Role> {
    BY_NAME.get(name).copied()
}

/// Whether a command begins right behind this word.
pub(super) fn leads(word: &str) -> bool {
    role(word) == Some(Role::Leads)
}

/// Whether shells go on in ways of their own behind this word.
pub(super) fn reads_on_differently(word: &str) -> bool {
    role(word) == Some(Role::Differs)
}

/// Whether a variable may change what runs.
pub(super) fn is_effective(variable: &str) -> bool {
    let fits = |name: &str| match (name.strip_prefix('*'), name.strip_suffix('*')) {
        (Some(end), None) => variable.ends_with(end),
        (None, Some(start)) => variable.starts_with(start),
        (Some(_), Some(_)) => variable.contains(name.trim_matches('*')),
        (None, None) => variable == name,
    };
    VARIABLES.iter().any(|(names, _)| names.split(' ').any(fits))
}

/// A program's name without its directory.
pub(super) fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// What is known of a program's options.
pub(super) fn options(name: &str) -> impl Iterator<Item = &'static Options> {
    OPTIONS.iter().filter(move |row| row.programs.split(' ').any(|it| it == name))
}

pub(super) fn script_of(name: &str) -> Option<Script> {
    let row = SCRIPTS.iter().find(|row| row.0.split(' ').any(|it| it == name));
    row.map(|row| row.1)
}

/// Which words of a program are files that it reads; none if that is not known.
pub(super) fn operands(name: &str) -> Option<Operands> {
    let row = READERS.iter().find(|row| row.0.split(' ').any(|it| it == name));
    row.map(|row| row.1)
}

/// Whether a program changes no file that it is given, as far as its name says.
pub(super) fn keeps_files(name: &str) -> bool {
    KEEPERS.iter().any(|row| row.0.split(' ').any(|it| it == name))
}

/// Options of a program that name the directory in which it works.
pub(super) fn directories(name: &str) -> impl Iterator<Item = &'static str> {
    let rows = DIRECTORIES.iter().filter(move |row| row.0.split(' ').any(|it| it == name));
    rows.flat_map(|row| row.1.split(' '))
}

/// Whether any of the tables says which of its words a program runs, if it runs any.
pub(super) fn is_known(name: &str) -> bool {
    role(name).is_some()
        || operands(name).is_some()
        || options(name).any(|row| !row.after.is_empty())
}

pub(super) fn reads_trees(name: &str) -> bool {
    TREES[0].0.split(' ').any(|it| it == name)
}

pub(super) fn may_read_trees(name: &str) -> bool {
    TREES[1].0.split(' ').any(|it| it == name)
}
