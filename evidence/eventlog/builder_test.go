package eventlog_test

import (
	"encoding/binary"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
)

const (
	noAction  = uint32(eventlog.NoAction)
	hcrtm     = uint32(eventlog.HCRTM)
	separator = 4
)

// entry is an event to write. Its digests are made of data in each of banks unless digests says otherwise.
type entry struct {
	pcr, kind uint32
	data      string
	digests   []byte // TPML_DIGEST_VALUES, little-endian
}

// header is the first event of a crypto-agile log with the given algorithms.
func header(banks ...attest.Hash) []byte {
	data := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(banks)))
	for _, bank := range banks {
		data = binary.LittleEndian.AppendUint16(data, uint16(bank))
		data = binary.LittleEndian.AppendUint16(data, uint16(bank.Size()))
	}
	return sha1Event(entry{kind: noAction, data: string(append(data, 0))})
}

func agileLog(banks []attest.Hash, entries ...entry) []byte {
	log := header(banks...)
	for _, e := range entries {
		log = binary.LittleEndian.AppendUint32(log, e.pcr)
		log = binary.LittleEndian.AppendUint32(log, e.kind)
		if e.digests == nil {
			e.digests = digestsOf(e.data, banks...)
		}
		log = append(log, e.digests...)
		log = binary.LittleEndian.AppendUint32(log, uint32(len(e.data)))
		log = append(log, e.data...)
	}
	return log
}

func digestsOf(data string, banks ...attest.Hash) []byte {
	list := binary.LittleEndian.AppendUint32(nil, uint32(len(banks)))
	for _, bank := range banks {
		list = binary.LittleEndian.AppendUint16(list, uint16(bank))
		list = append(list, bank.Sum([]byte(data)).Bytes()...)
	}
	return list
}

func sha1Log(entries ...entry) []byte {
	var log []byte
	for _, e := range entries {
		log = append(log, sha1Event(e)...)
	}
	return log
}

func sha1Event(e entry) []byte {
	event := binary.LittleEndian.AppendUint32(nil, e.pcr)
	event = binary.LittleEndian.AppendUint32(event, e.kind)
	digest := make([]byte, 20)
	if e.kind != noAction {
		digest = attest.SHA1.Sum([]byte(e.data)).Bytes()
	}
	event = append(event, digest...)
	event = binary.LittleEndian.AppendUint32(event, uint32(len(e.data)))
	return append(event, e.data...)
}
