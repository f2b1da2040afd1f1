//! What a door proves itself with to whoever dials its tunnel: a certificate, and an authority of the deployment's own.
//!
//! A deployment makes its authority itself and nobody else trusts it, so there is nothing to buy and nothing to renew: a
//! worker gets the authority's certificate with its order, the controller has it at hand, and both ask the door for the
//! one name [`DOOR_NAME`], whatever address they have dialled. The certificates are pure material here; [`files`] keeps
//! them on one machine, and a cluster keeps them in secrets of its own.
//!
//! Both certificates hold for ten years and there is no rotation: to have new ones, remove where they are kept, and start
//! door and controller again. Workers of before that trust the authority of before: they do not find a door any more,
//! and are replaced.
//!
//! How it can fail: the operating system has no random bytes to give; a key that was kept is none.

pub mod files;

use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use server::link::tunnel::DOOR_NAME;
use thiserror::Error;

/// How long certificates hold, in years.
const YEARS: i16 = 10;

/// What signs for a deployment's doors.
pub struct Authority {
    /// Its certificate, in PEM: what workers and controller know their doors by.
    pub certificate: String,
    /// Its key, in PEM. Only the controller has it.
    pub key: String,
}

/// What a door proves itself with.
pub struct Identity {
    /// Its certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
}

/// No certificate could be made.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// There were no random bytes for a key. Worth another try.
    #[error("cannot make a key for the {whose}")]
    Key {
        /// `authority`, `door`.
        whose: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The authority's key was kept, and is none.
    #[error(
        "the key of the deployment's authority is damaged: remove it with its certificate, and new ones are made"
    )]
    Damaged(#[source] rcgen::Error),
    /// It could not be signed.
    #[error("cannot sign the certificate of the {whose}")]
    Sign {
        /// `authority`, `door`.
        whose: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

impl Authority {
    /// A new one, from yesterday on: clocks differ.
    pub fn new(today: Date) -> Result<Self, CertificateError> {
        let whose = "authority";
        let key = KeyPair::generate().map_err(|source| CertificateError::Key { whose, source })?;
        let certificate =
            described(today).self_signed(&key).map_err(|source| CertificateError::Sign { whose, source })?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for the deployment's doors. They all have the same.
    pub fn door(&self, today: Date) -> Result<Identity, CertificateError> {
        let whose = "door";
        let ours = KeyPair::from_pem(&self.key).map_err(CertificateError::Damaged)?;
        // An issuer is a name and a key, and both are as they were when its certificate was made.
        let issuer = Issuer::new(described(today), ours);
        let key = KeyPair::generate().map_err(|source| CertificateError::Key { whose, source })?;
        let mut params = lasting(today);
        let name = DOOR_NAME.try_into().map_err(|source| CertificateError::Sign { whose, source })?;
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        params.distinguished_name.push(DnType::CommonName, DOOR_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate =
            params.signed_by(&key, &issuer).map_err(|source| CertificateError::Sign { whose, source })?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// The date by this machine's clock, for [`Authority::new`].
pub fn today() -> Date {
    jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date()
}

/// The authority, but for its key.
fn described(today: Date) -> CertificateParams {
    let mut params = lasting(today);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "Bulkhead, one deployment's own authority");
    params
}

fn lasting(today: Date) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let from = today.yesterday().unwrap_or(today);
    let (month, day) = (from.month().unsigned_abs(), from.day().unsigned_abs());
    params.not_before = date_time_ymd(from.year().into(), month, day);
    // Of the 28th at the latest, which every month of every year has.
    params.not_after = date_time_ymd((from.year() + YEARS).into(), month, day.min(28));
    params
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(…)")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// A moment that a test chooses.
    #[derive(Debug)]
    struct At(u64);

    impl rustls::time_provider::TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
        }
    }

    /// Whether somebody who trusts `authority` takes `door` for the door `name`, at noon of that day.
    fn is_trusted(
        authority: &Authority,
        door: &Identity,
        name: &str,
        day: Date,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let noon = jiff::tz::TimeZone::UTC.to_timestamp(day.at(12, 0, 0, 0)).unwrap().as_second();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_details(
            Arc::clone(&provider),
            Arc::new(At(u64::try_from(noon).unwrap())),
        );
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider);
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = server.with_single_cert(
            vec![CertificateDer::from_pem_slice(door.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(door.key.as_bytes()).unwrap(),
        );
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server.unwrap())).unwrap();
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_door_is_known_by_its_name_and_its_own_authority() {
        let leap_day = Date::new(2028, 2, 29).unwrap();
        for today in [leap_day, leap_day.tomorrow().unwrap(), today()] {
            let (ours, theirs) = (Authority::new(today).unwrap(), Authority::new(today).unwrap());
            let door = ours.door(today).unwrap();
            assert_eq!(is_trusted(&ours, &door, DOOR_NAME, today), Ok(()));
            assert!(is_trusted(&ours, &door, "localhost", today).is_err());
            assert!(is_trusted(&theirs, &door, DOOR_NAME, today).is_err());
        }
    }

    #[test]
    fn it_holds_for_ten_years_and_for_who_is_behind_by_a_day() {
        let today = Date::new(2030, 6, 15).unwrap();
        let authority = Authority::new(today).unwrap();
        let door = authority.door(today).unwrap();
        let trusted = |year, month, day| {
            is_trusted(&authority, &door, DOOR_NAME, Date::new(year, month, day).unwrap()).is_ok()
        };
        assert!(trusted(2030, 6, 14) && trusted(2040, 6, 13));
        assert!(!trusted(2030, 6, 13) && !trusted(2040, 6, 15));
    }

    #[test]
    fn an_authority_that_was_kept_signs_another_door() {
        let Authority { certificate, key } = Authority::new(today()).unwrap();
        let kept = Authority { certificate, key };
        // Some time later, by the same key.
        let later = today().tomorrow().unwrap();
        assert_eq!(is_trusted(&kept, &kept.door(later).unwrap(), DOOR_NAME, later), Ok(()));
        let damaged = Authority { certificate: kept.certificate, key: "half".to_owned() };
        assert!(matches!(damaged.door(later), Err(CertificateError::Damaged(_))));
    }
}
