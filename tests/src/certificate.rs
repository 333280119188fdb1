//! Self-signed certificates for servers on 127.0.0.1, made by openssl.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::process;

const DEADLINE: Duration = Duration::from_secs(60);

/// Makes a certificate and its key as `NAME.pem` and `NAME.key`.
///
/// # Errors
/// With openssl's own words.
pub fn make(directory: &Path, name: &str, serial: u32) -> Result<()> {
    let script = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -set_serial {serial} \
         -subj '/CN=localhost' -addext 'subjectAltName=IP:127.0.0.1' -addext 'basicConstraints=critical,CA:FALSE' \
         -keyout {name}.key -out {name}.pem"
    );
    process::shell(directory, &script, DEADLINE).map(drop)
}

/// Makes `used.pem` and `used.key`, and the arguments with which a server uses them.
///
/// # Errors
/// With openssl's own words.
pub fn server_arguments(directory: &Path) -> Result<Vec<String>> {
    make(directory, "used", 7)?;
    let path = |name: &str| directory.join(name).display().to_string();
    Ok(vec!["--tls-cert".into(), path("used.pem"), "--tls-key".into(), path("used.key")])
}
