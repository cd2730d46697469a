use super::*;

fn server(addresses: &[&str]) -> DnsServer {
    let addresses = addresses.iter().map(|address| (address.parse().unwrap(), None)).collect();
    DnsServer { addresses, ..DnsServer::default() }
}

fn dns(servers: Vec<DnsServer>, search: &[&str]) -> Dns {
    Dns { servers, search: search.iter().map(|&name| name.to_owned()).collect() }
}

#[test]
fn the_file_holds_servers_and_domains_and_keeps_options() {
    let wanted = dns(vec![server(&["10.8.0.53", "fd00::53"])], &["corp.example"]);
    let (text, notes) = resolv_conf("tun7", &wanted, "nameserver 192.0.2.53\noptions edns0\n");
    assert_eq!(
        text,
        "# Written for the tunnel tun7; the former file comes back when it ends.\n\
         search corp.example\nnameserver 10.8.0.53\nnameserver fd00::53\noptions edns0\n"
    );
    assert!(notes.is_empty());
    let (text, _) = resolv_conf("tun7", &dns(vec![], &["corp.example"]), "nameserver 192.0.2.53\n");
    assert!(text.ends_with("search corp.example\nnameserver 192.0.2.53\n"), "the servers stay: {text}");
}

#[test]
fn the_file_cannot_do_everything_and_that_is_told() {
    let demanding = DnsServer { transport: DnsTransport::Tls, ..server(&["10.8.0.1"]) };
    let split = DnsServer { resolve_domains: vec!["corp.example".to_owned()], ..server(&["10.8.0.2"]) };
    let (text, notes) = resolv_conf("tun7", &dns(vec![demanding.clone(), split], &[]), "");
    assert!(text.contains("search corp.example\nnameserver 10.8.0.2\n"), "{text}");
    assert_eq!(notes.len(), 1);
    let (text, notes) = resolv_conf("tun7", &dns(vec![demanding], &[]), "nameserver 192.0.2.53\n");
    assert!(!text.contains("10.8.0.1"), "{text}");
    assert!(notes[0].contains("none can be asked"), "{notes:?}");
    let (text, notes) = resolv_conf("tun7", &dns(vec![server(&["10.0.0.1"; 5])], &[]), "");
    assert_eq!((text.matches("nameserver").count(), notes.len()), (3, 1));
}

#[test]
fn resolved_is_told_everything() {
    let wanted = DnsServer {
        addresses: vec![("10.8.0.53".parse().unwrap(), Some(853)), ("fd00::53".parse().unwrap(), Some(853))],
        resolve_domains: vec!["corp.example".to_owned()],
        dnssec: Some(Dnssec::Optional),
        transport: DnsTransport::Tls,
        sni: Some("dns.corp.example".to_owned()),
    };
    let (commands, notes) = resolvectl("tun7", &dns(vec![wanted], &["example"]));
    let commands: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
    assert_eq!(
        commands,
        [
            "dns tun7 10.8.0.53:853#dns.corp.example [fd00::53]:853#dns.corp.example",
            "dnsovertls tun7 yes",
            "dnssec tun7 allow-downgrade",
            "domain tun7 example ~corp.example",
        ]
    );
    assert!(notes.is_empty());
    let (commands, _) = resolvectl("tun7", &dns(vec![server(&["10.8.0.53"])], &[]));
    assert_eq!(commands[1].join(" "), "domain tun7 ~.");
}

#[test]
fn names_of_the_server_cannot_carry_lines_or_flags() {
    let bad = DnsServer {
        resolve_domains: vec!["--help".to_owned(), "ok.example".to_owned()],
        sni: Some("a b".to_owned()),
        ..server(&["10.8.0.53"])
    };
    let (checked, notes) = dns(vec![bad, DnsServer::default()], &["x\nnameserver 6.6.6.6", "ok.example"]).checked();
    assert_eq!(checked.search, ["ok.example"]);
    assert_eq!(checked.servers.len(), 1, "one without an address is none");
    assert_eq!((checked.servers[0].resolve_domains.len(), &checked.servers[0].sni), (1, &None));
    assert_eq!(notes.len(), 3);
}

#[tokio::test]
async fn a_file_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = dns(vec![server(&["10.8.0.53"])], &[]);
    let set = async |path: &Path| {
        let undo = Manager::File.undo("tun7", path).unwrap();
        Manager::File.set("tun7", &wanted, path).await.unwrap();
        assert!(fs::read_to_string(path).unwrap().contains("nameserver 10.8.0.53"));
        undo
    };

    let file = dir.path().join("file");
    fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    set(&file).await.execute().await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.53\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);

    let link = dir.path().join("link");
    symlink("file", &link).unwrap();
    set(&link).await.execute().await.unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("file"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.53\n", "what it leads to was not touched");

    let missing = dir.path().join("missing");
    set(&missing).await.execute().await.unwrap();
    assert!(!missing.exists());

    let undo = set(&file).await;
    fs::write(&file, "nameserver 198.51.100.53\n").unwrap();
    undo.execute().await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 198.51.100.53\n", "somebody else's stays");
}

#[tokio::test]
async fn a_program_that_fails_or_hangs_is_told() {
    let run = async |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        run_within(Duration::from_secs(1), "sh", &words, "text").await
    };
    run(&["-c", "test $(cat) = text"]).await.unwrap();
    let failed = run(&["-c", "cat; echo no such link >&2; exit 3"]).await.unwrap_err();
    assert!(failed.to_string().ends_with("exit 3: no such link"), "{failed}");
    let hung = run(&["-c", "exec sleep 60"]).await.unwrap_err();
    assert!(hung.to_string().ends_with("it was not done within 1 s"), "{hung}");
}
