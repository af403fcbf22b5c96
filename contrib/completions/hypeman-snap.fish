# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hypeman_snap_global_optspecs
    string join \n state-dir= data-dir= engine= base-url= ca-file= insecure-http o/output= json lock-timeout= v/verbose q/quiet h/help V/version
end

function __fish_hypeman_snap_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hypeman_snap_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hypeman_snap_using_subcommand
    set -l cmd (__fish_hypeman_snap_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -s V -l version -d 'Print version'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "set" -d 'Give an instance a schedule, or change the one it has'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "get" -d 'Show one schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "list" -d 'List every schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "ls" -d 'List every schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "delete" -d 'Remove a schedule; its snapshots stay'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "rm" -d 'Remove a schedule; its snapshots stay'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "run-due" -d 'Snapshot what is due, then apply retention'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "prune" -d 'Apply retention now, and clean up what killed runs left behind'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "snapshots" -d 'List snapshots, and say why each is kept'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "plan" -d 'Show what a schedule will do: its runs, and what becomes of each snapshot'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "snapshot" -d 'Take a snapshot of an instance now, which no schedule owns'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "restore" -d 'Give a snapshot back, in place or into a directory, and start the VM from it'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "verify" -d 'Say whether snapshots are what they were'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "protect" -d 'Make snapshots stay, whatever retention says'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "unprotect" -d 'Take back the protection of snapshots'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "delete-snapshot" -d 'Delete snapshots by id or name, also those that no schedule made'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "check" -d 'Say whether every newest snapshot is young enough, as a monitoring plugin does'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "register" -d 'Tell the local engine of a VM that hypeman does not run'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "unregister" -d 'Make the local engine forget a registered VM; its snapshots stay'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "doctor" -d 'Say what would be used and whether it works; changes nothing'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c hypeman-snap -n "__fish_hypeman_snap_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l interval -d 'Time between two snapshots, at least 1m' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l calendar -d 'When snapshots are taken: five fields as in crontab(5), or @hourly, @daily, @weekly, @monthly, @yearly' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l jitter -d 'How much later than its time a run may be, by the instance\'s id [default: a tenth of the time to the next one, at most 5m]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l max-pause -d 'Take no snapshot that is foreseen to pause the guest for longer than this; 0 means no limit' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l max-count -d 'Keep only the newest N of the scheduled snapshots that the keep rules want; 0 means no limit' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l max-age -d 'Keep only scheduled snapshots younger than this; 0 means no limit' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-last -d 'Keep the newest N scheduled snapshots' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-hourly -d 'Keep the newest snapshot of each of the last N hours that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-daily -d 'Keep the newest snapshot of each of the last N days that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-weekly -d 'Keep the newest snapshot of each of the last N ISO weeks that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-monthly -d 'Keep the newest snapshot of each of the last N months that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-yearly -d 'Keep the newest snapshot of each of the last N years that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l keep-within -d 'Keep all snapshots younger than this, counted back from the newest one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l min-keep -d 'Keep the newest N usable snapshots of each kind, whatever the limits and keep rules say [default: 1]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l timezone -d 'The time zone of --calendar and of the keep rules, such as Europe/Berlin [default: the host\'s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l name-prefix -d 'Start snapshot names with this [default: scheduled]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l metadata -d 'A tag for every snapshot; may be given several times' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l no-memory -d 'Leave out the memory of a guest that runs: it starts from such a snapshot as after a power cut' -r -f -a "true\t''
false\t''"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l compress -d 'Compress memory once the guest runs again: zstd or zstd:1 to zstd:19, lz4 or lz4:0 to lz4:9, or none' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l min-free -d 'Keep so much free where snapshots are stored, such as 20GiB or 10% [default: HYPEMAN_SNAP_MIN_FREE]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l pre-hook -d 'A command to run before each snapshot; if it fails, none is taken' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l post-hook -d 'A command to run after each snapshot, also when the snapshot or the pre-hook failed' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l failure-hook -d 'A command to run when anything of a run failed, last of all' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l hook-timeout -d 'How long each hook may run before it is ended with its children [default: 60s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l first -d 'When the first run is, now or so much later [default: after one interval, or by the calendar]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l update -d 'Change only what is given, in a schedule that is there; an empty hook or prefix is removed'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -s n -l dry-run -d 'Show what would change and write nothing'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand set" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l ignore-not-found -d 'Succeed when there is no such schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l ignore-not-found -d 'Succeed when there is no such schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand rm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l instance -d 'Look at this instance\'s schedule only; may be given several times' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l jobs -d 'How many instances to work on at once, those apart that take over a minute [default: the number of processors, at least 2 and at most 4]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l pause-timeout -d 'How long a guest may be paused before its snapshot is given up [default: 30s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l instance-timeout -d 'How long the local engine may work on one instance [default: 5m, and 1m for each GiB to save]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l missing-grace -d 'How long an instance must be gone before its last snapshots may go and its schedule is retired [default: 24h] [env: HYPEMAN_SNAP_MISSING_GRACE]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l create-timeout -d 'How long the hypeman server may take for one snapshot [default: 10m]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l metrics-file -d 'Write metrics for node-exporter\'s textfile collector to this file [env: HYPEMAN_SNAP_METRICS_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l heartbeat-url -d 'Request this URL after each run: a dead man\'s switch [env: HYPEMAN_SNAP_HEARTBEAT_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -s n -l dry-run -d 'Show what would be done and do nothing'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l force -d 'Run now, due or not; the schedule\'s times stay as they are'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l protect -d 'Protect the snapshots that this run takes, so that retention leaves them alone; goes with --force'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l recover-only -d 'Only resume guests that a killed run left paused, and clean up after it'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand run-due" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l missing-grace -d 'How long an instance must be gone before its last snapshots may go and its schedule is retired [default: 24h] [env: HYPEMAN_SNAP_MISSING_GRACE]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -s n -l dry-run -d 'Show what would be removed and remove nothing'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l force -d 'Remove all that goes, also more than half of an instance\'s scheduled snapshots at once'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l missing-grace -d 'How long an instance must be gone before its last snapshots may go and its schedule is retired [default: 24h] [env: HYPEMAN_SNAP_MISSING_GRACE]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshots" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l for -d 'How far to look ahead [default: 30d]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l interval -d 'Time between two snapshots, at least 1m' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l calendar -d 'When snapshots are taken: five fields as in crontab(5), or @hourly, @daily, @weekly, @monthly, @yearly' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l jitter -d 'How much later than its time a run may be, by the instance\'s id [default: a tenth of the time to the next one, at most 5m]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l max-pause -d 'Take no snapshot that is foreseen to pause the guest for longer than this; 0 means no limit' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l max-count -d 'Keep only the newest N of the scheduled snapshots that the keep rules want; 0 means no limit' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l max-age -d 'Keep only scheduled snapshots younger than this; 0 means no limit' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-last -d 'Keep the newest N scheduled snapshots' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-hourly -d 'Keep the newest snapshot of each of the last N hours that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-daily -d 'Keep the newest snapshot of each of the last N days that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-weekly -d 'Keep the newest snapshot of each of the last N ISO weeks that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-monthly -d 'Keep the newest snapshot of each of the last N months that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-yearly -d 'Keep the newest snapshot of each of the last N years that have one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l keep-within -d 'Keep all snapshots younger than this, counted back from the newest one' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l min-keep -d 'Keep the newest N usable snapshots of each kind, whatever the limits and keep rules say [default: 1]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l timezone -d 'The time zone of --calendar and of the keep rules, such as Europe/Berlin [default: the host\'s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l name-prefix -d 'Start snapshot names with this [default: scheduled]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l metadata -d 'A tag for every snapshot; may be given several times' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l no-memory -d 'Leave out the memory of a guest that runs: it starts from such a snapshot as after a power cut' -r -f -a "true\t''
false\t''"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l compress -d 'Compress memory once the guest runs again: zstd or zstd:1 to zstd:19, lz4 or lz4:0 to lz4:9, or none' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l min-free -d 'Keep so much free where snapshots are stored, such as 20GiB or 10% [default: HYPEMAN_SNAP_MIN_FREE]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l pre-hook -d 'A command to run before each snapshot; if it fails, none is taken' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l post-hook -d 'A command to run after each snapshot, also when the snapshot or the pre-hook failed' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l failure-hook -d 'A command to run when anything of a run failed, last of all' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l hook-timeout -d 'How long each hook may run before it is ended with its children [default: 60s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l name -d 'The snapshot\'s name [default: manual-YYYYMMDD-HHMMSS]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l metadata -d 'A tag for the snapshot; may be given several times' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l to -d 'Make this directory with the snapshot\'s content instead, and leave the VM alone; it must not be there, or be empty' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l disks-only -d 'Leave the memory out, so that the guest boots anew from its disks'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l start -d 'Start the VM, and wait until its guest runs'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l no-save -d 'Don\'t keep what was there before in a snapshot, once all has gone well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l force -d 'Go on although it may fail, or, with --to and --start, although the instance runs'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -s n -l dry-run -d 'Look at what could be in the way, and do nothing'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l jobs -d 'How many snapshots to look at at once' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l read -d 'Read every byte, and compare it with what was written'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l reason -d 'Why they stay; shown with them' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l until -d 'When the protection ends, such as 2027-01-31, "2027-01-31 18:00" or 2027-01-31T18:00:00Z [default: never]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand protect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unprotect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -s y -l yes -d 'Don\'t ask'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand delete-snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l rpo -d 'How old the newest snapshot may be [default: the interval, its jitter and a slack]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l verified-within -d 'Warn when no snapshot of the instance was read and found whole (`verify --read`) for longer than this' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l hypervisor -d 'What runs it: cloud-hypervisor, firecracker, qemu or qemu-microvm' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l socket -d 'The VMM\'s control socket' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l name -d 'A name to call it by [default: the id]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l disk -d 'A disk of the VM, by its path; may be given several times' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l disk-root -d 'A directory in which the VM\'s disks live; its VMM\'s disks elsewhere are refused. May be given several times' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l force -d 'Register a VM whose socket nobody serves and of which no disk is known'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand register" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand unregister" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l state-dir -d 'Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l data-dir -d 'hypeman\'s data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l engine -d 'Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]' -r -f -a "local\t'This tool, through the VMMs\' control sockets and hypeman\'s data directory'
hypeman\t'A hypeman server, through its HTTP API'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l base-url -d 'The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l ca-file -d 'A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]' -r -F
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -s o -l output -d 'How results are printed' -r -f -a "table\t'For people'
wide\t'The same with all columns, however narrow the terminal is'
json\t'For programs'"
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l lock-timeout -d 'How long to wait for a schedule that another run holds [default: 10s]' -r
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l insecure-http -d 'Allow plain http to a server on another host; the API key then travels unencrypted'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -l json -d 'The same as --output json'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -s v -l verbose -d 'Say more on stderr: -v what is done, -vv also how'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -s q -l quiet -d 'Say errors only, and print nothing for runs that went well'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "set" -d 'Give an instance a schedule, or change the one it has'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "get" -d 'Show one schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "list" -d 'List every schedule'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "delete" -d 'Remove a schedule; its snapshots stay'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "run-due" -d 'Snapshot what is due, then apply retention'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "prune" -d 'Apply retention now, and clean up what killed runs left behind'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "snapshots" -d 'List snapshots, and say why each is kept'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "plan" -d 'Show what a schedule will do: its runs, and what becomes of each snapshot'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "snapshot" -d 'Take a snapshot of an instance now, which no schedule owns'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "restore" -d 'Give a snapshot back, in place or into a directory, and start the VM from it'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "verify" -d 'Say whether snapshots are what they were'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "protect" -d 'Make snapshots stay, whatever retention says'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "unprotect" -d 'Take back the protection of snapshots'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "delete-snapshot" -d 'Delete snapshots by id or name, also those that no schedule made'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "check" -d 'Say whether every newest snapshot is young enough, as a monitoring plugin does'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "register" -d 'Tell the local engine of a VM that hypeman does not run'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "unregister" -d 'Make the local engine forget a registered VM; its snapshots stay'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "doctor" -d 'Say what would be used and whether it works; changes nothing'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "completions" -d 'Print completions for a shell'
complete -c hypeman-snap -n "__fish_hypeman_snap_using_subcommand help; and not __fish_seen_subcommand_from set get list delete run-due prune snapshots plan snapshot restore verify protect unprotect delete-snapshot check register unregister doctor completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
