package wire

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// The PCR blob: a TPML_PCR_SELECTION and TPML_DIGESTs as tpm2-tools dumps them from memory on a little-endian machine, in bytes.
const (
	slots          = 16     // of a TPML_PCR_SELECTION
	slotBytes      = 8      // u16 hash, u8 size, 4 bytes of bitmap, 1 of padding
	bitmapBytes    = 3      // of 4: the 24 PCRs of a PC client
	listDigests    = 8      // of a TPML_DIGEST
	digestBytes    = 2 + 64 // u16 size, value
	listBytes      = 4 + listDigests*digestBytes
	selectionBytes = 4 + slots*slotBytes
	maxLists       = slots * pcr.Count / listDigests
	maxBlobBytes   = selectionBytes + 4 + maxLists*listBytes
)

// maxPartBytes bounds what stands beside the blob; quote.Parse bounds it further.
const maxPartBytes = 4 << 10

// maxQuoteText bounds a packed quote.
const maxQuoteText = 1 + 2 + (maxBlobBytes+2*maxPartBytes+9)*4/3

// PackQuote writes a quote as "r", TPMS_ATTEST, ":", TPMT_SIGNATURE, ":", PCR blob, each in base64. What does not fit into
// a blob (more than 16 selections, digests over 64 bytes) is no quote of a TPM: it panics.
func PackQuote(raw quote.Raw) string {
	encode := base64.StdEncoding.EncodeToString
	return "r" + encode(raw.Attest) + ":" + encode(raw.Signature) + ":" + encode(PackPCRs(raw.Selections, raw.Digests))
}

// UnpackQuote reads PackQuote's form. It judges nothing: quote.Parse and quote.Verify do. Refused are other prefixes, a
// fourth part, and blobs that UnpackPCRs refuses.
func UnpackQuote(text string) (quote.Raw, error) {
	if len(text) > maxQuoteText {
		return quote.Raw{}, fmt.Errorf("unpack quote: %d bytes of text, more than %d", len(text), maxQuoteText)
	}
	body, found := strings.CutPrefix(text, "r")
	if !found {
		return quote.Raw{}, fmt.Errorf("unpack quote: %s does not begin with r", shown(text))
	}
	parts := strings.Split(body, ":")
	if len(parts) != 3 {
		return quote.Raw{}, fmt.Errorf("unpack quote: %d parts, not 3", len(parts))
	}
	var decoded [3][]byte
	for i, name := range []string{"TPMS_ATTEST", "TPMT_SIGNATURE", "PCR blob"} {
		var err error
		if decoded[i], err = decodeBase64(parts[i]); err != nil {
			return quote.Raw{}, fmt.Errorf("unpack quote: %s: %w", name, err)
		}
	}
	selections, digests, err := UnpackPCRs(decoded[2])
	if err != nil {
		return quote.Raw{}, fmt.Errorf("unpack quote: %w", err)
	}
	return quote.Raw{Attest: decoded[0], Signature: decoded[1], Selections: selections, Digests: digests}, nil
}

func decodeBase64(text string) ([]byte, error) {
	if i := strings.IndexAny(text, "\r\n"); i >= 0 { // which the decoder would pass over
		return nil, fmt.Errorf("line end at offset %d", i)
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}

// PackPCRs writes a PCR blob; it panics as PackQuote does.
func PackPCRs(selections []pcr.Selection, digests [][]byte) []byte {
	if len(selections) > slots {
		panic(fmt.Sprintf("wire: %d PCR selections, more than %d", len(selections), slots))
	}
	le := binary.LittleEndian
	blob := make([]byte, 0, selectionBytes+4+listBytes)
	blob = le.AppendUint32(blob, uint32(len(selections)))
	for _, s := range selections {
		blob = le.AppendUint16(blob, uint16(s.Bank))
		blob = append(blob, bitmapBytes, byte(s.Mask), byte(s.Mask>>8), byte(s.Mask>>16), 0, 0)
	}
	blob = append(blob, make([]byte, (slots-len(selections))*slotBytes)...)
	lists := (len(digests) + listDigests - 1) / listDigests
	blob = le.AppendUint32(blob, uint32(lists))
	for len(digests) > 0 {
		n := min(len(digests), listDigests)
		blob = appendList(blob, digests[:n])
		digests = digests[n:]
	}
	return blob
}

func appendList(blob []byte, digests [][]byte) []byte {
	blob = binary.LittleEndian.AppendUint32(blob, uint32(len(digests)))
	for _, digest := range digests {
		if len(digest) > attest.MaxDigestSize {
			panic(fmt.Sprintf("wire: PCR value of %d bytes, more than %d", len(digest), attest.MaxDigestSize))
		}
		blob = binary.LittleEndian.AppendUint16(blob, uint16(len(digest)))
		blob = append(blob, digest...)
		blob = append(blob, make([]byte, attest.MaxDigestSize-len(digest))...)
	}
	return append(blob, make([]byte, (listDigests-len(digests))*digestBytes)...)
}

// UnpackPCRs reads a PCR blob. It refuses bytes after the last list, bytes other than zero where nothing is stored, selections of
// other than 24 PCRs, empty lists, and digests over 64 bytes. Whether banks are known and digests fit them is left to quote.Parse.
func UnpackPCRs(blob []byte) ([]pcr.Selection, [][]byte, error) {
	if len(blob) < selectionBytes+4 || len(blob) > maxBlobBytes {
		return nil, nil, fmt.Errorf("PCR blob: %d bytes, not %d to %d", len(blob), selectionBytes+4, maxBlobBytes)
	}
	selections, err := unpackSelections(blob[:selectionBytes])
	if err != nil {
		return nil, nil, fmt.Errorf("PCR blob: %w", err)
	}
	lists, rest := binary.LittleEndian.Uint32(blob[selectionBytes:]), blob[selectionBytes+4:]
	if uint64(lists)*listBytes != uint64(len(rest)) {
		return nil, nil, fmt.Errorf("PCR blob: %d bytes behind the selection, not the %d of %d digest lists", len(rest), uint64(lists)*listBytes, lists)
	}
	var digests [][]byte
	for i := range int(lists) {
		list, err := unpackList(rest[i*listBytes : (i+1)*listBytes])
		if err != nil {
			return nil, nil, fmt.Errorf("PCR blob: digest list %d: %w", i, err)
		}
		digests = append(digests, list...)
	}
	return selections, digests, nil
}

func unpackSelections(blob []byte) ([]pcr.Selection, error) {
	count := binary.LittleEndian.Uint32(blob)
	if count > slots {
		return nil, fmt.Errorf("%d selections, more than %d", count, slots)
	}
	var selections []pcr.Selection
	for i := range slots {
		slot := blob[4+i*slotBytes : 4+(i+1)*slotBytes]
		if i >= int(count) {
			if !zeros(slot) {
				return nil, fmt.Errorf("selection %d is beyond the %d used ones and not zero", i, count)
			}
			continue
		}
		if slot[2] != bitmapBytes {
			return nil, fmt.Errorf("selection %d: bitmap of %d bytes, not %d", i, slot[2], bitmapBytes)
		}
		if !zeros(slot[3+bitmapBytes:]) {
			return nil, fmt.Errorf("selection %d: bytes behind the bitmap are not zero", i)
		}
		selections = append(selections, pcr.Selection{
			Bank: attest.Hash(binary.LittleEndian.Uint16(slot)),
			Mask: uint32(slot[3]) | uint32(slot[4])<<8 | uint32(slot[5])<<16,
		})
	}
	return selections, nil
}

func unpackList(list []byte) ([][]byte, error) {
	count := binary.LittleEndian.Uint32(list)
	if count == 0 || count > listDigests {
		return nil, fmt.Errorf("%d digests, not 1 to %d", count, listDigests)
	}
	var digests [][]byte
	for i := range listDigests {
		digest := list[4+i*digestBytes : 4+(i+1)*digestBytes]
		if i >= int(count) {
			if !zeros(digest) {
				return nil, fmt.Errorf("digest %d is beyond the %d used ones and not zero", i, count)
			}
			continue
		}
		size := int(binary.LittleEndian.Uint16(digest))
		if size > attest.MaxDigestSize {
			return nil, fmt.Errorf("digest %d: %d bytes, more than %d", i, size, attest.MaxDigestSize)
		}
		if !zeros(digest[2+size:]) {
			return nil, fmt.Errorf("digest %d: bytes behind its %d are not zero", i, size)
		}
		digests = append(digests, append([]byte(nil), digest[2:2+size]...))
	}
	return digests, nil
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
