package wire

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/assay-project/assay/endorsement"
)

// The packed credential is the file of tpm2_makecredential: magic, version, then TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, big-endian.
const (
	credentialMagic   = 0xbadcc0de
	credentialVersion = 1
	credentialHead    = 4 + 4
	// maxCredentialPart bounds both parts; the secret of an RSA-4096 EK has 512 bytes.
	maxCredentialPart = 1024
)

// PackCredential writes the blob that registers an agent. Parts of 64 KiB or more are no credential: it panics.
func PackCredential(c endorsement.Credential) []byte {
	blob := binary.BigEndian.AppendUint32(nil, credentialMagic)
	blob = binary.BigEndian.AppendUint32(blob, credentialVersion)
	for _, part := range [][]byte{c.IDObject, c.Secret} {
		if len(part) > 0xffff {
			panic(fmt.Sprintf("wire: credential part of %d bytes", len(part)))
		}
		blob = binary.BigEndian.AppendUint16(blob, uint16(len(part)))
		blob = append(blob, part...)
	}
	return blob
}

// UnpackCredential reads PackCredential's form and refuses bytes behind it. What is inside is the TPM's to judge.
func UnpackCredential(blob []byte) (endorsement.Credential, error) {
	if len(blob) < credentialHead {
		return endorsement.Credential{}, fmt.Errorf("unpack credential: %d bytes are shorter than its head", len(blob))
	}
	if magic := binary.BigEndian.Uint32(blob); magic != credentialMagic {
		return endorsement.Credential{}, fmt.Errorf("unpack credential: magic %#08x, not %#08x", magic, uint32(credentialMagic))
	}
	if version := binary.BigEndian.Uint32(blob[4:]); version != credentialVersion {
		return endorsement.Credential{}, fmt.Errorf("unpack credential: version %d, not %d", version, credentialVersion)
	}
	idObject, rest, err := takePart(blob[credentialHead:])
	if err != nil {
		return endorsement.Credential{}, fmt.Errorf("unpack credential: id object: %w", err)
	}
	secret, rest, err := takePart(rest)
	if err != nil {
		return endorsement.Credential{}, fmt.Errorf("unpack credential: secret: %w", err)
	}
	if len(rest) > 0 {
		return endorsement.Credential{}, fmt.Errorf("unpack credential: %d bytes behind the secret", len(rest))
	}
	return endorsement.Credential{IDObject: idObject, Secret: secret}, nil
}

func takePart(from []byte) (part, rest []byte, err error) {
	if len(from) < 2 {
		return nil, nil, fmt.Errorf("no length, %d bytes are left", len(from))
	}
	size := int(binary.BigEndian.Uint16(from))
	if size == 0 || size > maxCredentialPart || size > len(from)-2 {
		return nil, nil, fmt.Errorf("length %d, but 1 to %d are possible", size, min(maxCredentialPart, len(from)-2))
	}
	return append([]byte(nil), from[2:2+size]...), from[2+size:], nil
}

// Sizes of the random texts, in characters.
const (
	challengeChars = 32
	nonceChars     = 20
)

// NewChallenge draws the secret of a credential: 32 letters and digits, since the reference's agents take it as text.
func NewChallenge(rand io.Reader) ([]byte, error) { return alphanumeric(rand, challengeChars) }

// NewNonce draws the nonce of a quote: 20 letters and digits (119 bits); the quote's extraData are these bytes.
func NewNonce(rand io.Reader) ([]byte, error) { return alphanumeric(rand, nonceChars) }

// alphanumeric draws n characters, each as likely as the others.
func alphanumeric(rand io.Reader, n int) ([]byte, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(alphabet) // bytes from here on would favour the first letters
	text := make([]byte, 0, n)
	var drawn [1]byte
	for len(text) < n {
		if _, err := io.ReadFull(rand, drawn[:]); err != nil {
			return nil, fmt.Errorf("draw random text: %w", err)
		}
		if int(drawn[0]) < fair {
			text = append(text, alphabet[int(drawn[0])%len(alphabet)])
		}
	}
	return text, nil
}

// AuthTag returns the proof that a credential's challenge is known: HMAC-SHA384 over the agent's id in hex, under the base64 text of the challenge.
func AuthTag(challenge []byte, id string) string {
	mac := hmac.New(sha512.New384, []byte(base64.StdEncoding.EncodeToString(challenge)))
	io.WriteString(mac, id) // a hash takes everything
	return hex.EncodeToString(mac.Sum(nil))
}
