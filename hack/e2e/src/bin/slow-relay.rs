//! A slow way to a server: `slow-relay PORT HOST:PORT MILLISECONDS`. What comes in at the first port goes to the other address
//! and back, each piece that much later.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, target, delay] = &words[..] else {
        return Err("usage: slow-relay PORT HOST:PORT MILLISECONDS".into());
    };
    let delay = Duration::from_millis(delay.parse()?);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))?;
    writeln!(io::stdout(), "listening")?;
    for client in listener.incoming() {
        let (client, server) = (client?, TcpStream::connect(target.as_str()));
        // a server that is away closes the connection
        let Ok(server) = server else { continue };
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || relay(from_client, server, delay));
        thread::spawn(move || relay(from_server, client, delay));
    }
    Ok(())
}

/// Passes on what comes in, until the end of either.
fn relay(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        thread::sleep(delay);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
