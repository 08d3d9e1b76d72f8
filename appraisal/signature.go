package appraisal

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/policy"
)

// signed says what a file's signature is worth.
type signed int

const (
	// unknown: no signature, or one by a key that nobody listed. The digest decides.
	unknown signed = iota
	// good: the signature verifies with a key of a document or an approved one of a keyring.
	good
	// invalid: the signature names such a key and does not verify with it, or cannot be read.
	invalid
)

// fileSignature is a signature of a file's digest, as evmctl writes it to security.ima (ima-evm-utils, struct signature_v2_hdr).
type fileSignature struct {
	hash  attest.Hash
	keyID uint32
	bytes []byte
}

// signatureHeaderBytes: type, version, algorithm, four bytes of key id, two of length.
const signatureHeaderBytes = 9

// Bytes of the header.
const (
	typeDigest   = 3 // EVM_IMA_XATTR_DIGSIG
	typePortable = 5 // EVM_XATTR_PORTABLE_DIGSIG
	version2     = 2
)

func parseSignature(b []byte) (fileSignature, error) {
	if len(b) < signatureHeaderBytes {
		return fileSignature{}, fmt.Errorf("its %d bytes are fewer than the header's %d", len(b), signatureHeaderBytes)
	}
	if b[0] != typeDigest && b[0] != typePortable {
		return fileSignature{}, fmt.Errorf("its type is %d", b[0])
	}
	if b[1] != version2 {
		return fileSignature{}, fmt.Errorf("its version is %d; 2 is supported", b[1])
	}
	s := fileSignature{hash: signatureHash(b[2]), keyID: binary.BigEndian.Uint32(b[3:]), bytes: b[signatureHeaderBytes:]}
	if !s.hash.Known() {
		return fileSignature{}, fmt.Errorf("its hash algorithm is %d", b[2])
	}
	if size := int(binary.BigEndian.Uint16(b[7:])); size != len(s.bytes) {
		return fileSignature{}, fmt.Errorf("it says %d bytes and has %d", size, len(s.bytes))
	}
	return s, nil
}

// signatureHash knows the numbers of include/uapi/linux/hash_info.h.
func signatureHash(number byte) attest.Hash {
	switch number {
	case 2:
		return attest.SHA1
	case 4:
		return attest.SHA256
	case 5:
		return attest.SHA384
	case 6:
		return attest.SHA512
	}
	return 0
}

// signature judges the signature of an entry; reason says why one is not good, for the end of a sentence.
func (w *walk) signature(e *ima.Entry) (worth signed, reason string) {
	if len(w.keys) == 0 {
		return unknown, ""
	}
	raw := e.Signature()
	if len(raw) == 0 {
		return unknown, ""
	}
	s, err := parseSignature(raw)
	if err != nil {
		return invalid, err.Error()
	}
	known := false
	for _, key := range w.keys {
		if key.ID != s.keyID {
			continue
		}
		known = true
		if err = s.verify(key, e); err == nil {
			return good, ""
		}
	}
	if !known {
		return unknown, fmt.Sprintf("; it is signed by key %08x, which is not listed", s.keyID)
	}
	return invalid, fmt.Sprintf("by key %08x: %v", s.keyID, err)
}

var errSignature = errors.New("it does not verify")

// verify checks the signature over the digest of the entry: PKCS #1 v1.5, or ECDSA in DER.
func (s fileSignature) verify(key policy.Key, e *ima.Entry) error {
	if plainDigest(e).Hash() != s.hash {
		return fmt.Errorf("it signs a %s digest", s.hash)
	}
	switch public := key.Public.(type) {
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(public, s.hash.Crypto(), e.Digest.Bytes(), s.bytes) == nil {
			return nil
		}
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(public, e.Digest.Bytes(), s.bytes) {
			return nil
		}
	}
	return errSignature
}
