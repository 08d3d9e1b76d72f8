package ima

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// measurement is one entry to be written by a second hand: straight from the kernel's description, sharing nothing with the parsers.
type measurement struct {
	pcr       int // 0 means 10
	template  string
	prefix    string // "sha256:"
	digest    []byte
	name      string
	tail      []byte
	violation bool
}

func (m measurement) register() int {
	if m.pcr == 0 {
		return 10
	}
	return m.pcr
}

func sized(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// data returns the template data of the binary list.
func (m measurement) data() []byte {
	if m.template == "ima" {
		return append(append([]byte{}, m.digest...), sized([]byte(m.name))...)
	}
	out := sized(append([]byte(m.prefix+"\x00"), m.digest...))
	out = append(out, sized([]byte(m.name+"\x00"))...)
	if m.hasTail() {
		out = append(out, sized(m.tail)...)
	}
	return out
}

func (m measurement) hasTail() bool {
	return m.template == "ima-sig" || m.template == "ima-sigv2" || m.template == "ima-buf"
}

// hashed returns the bytes whose hash is the template hash.
func (m measurement) hashed() []byte {
	if m.template != "ima" {
		return m.data()
	}
	out := make([]byte, 276)
	copy(out, m.digest)
	copy(out[20:], m.name)
	return out
}

func (m measurement) column(h attest.Hash) []byte {
	if m.violation {
		return make([]byte, h.Size())
	}
	return h.Sum(m.hashed()).Bytes()
}

func (m measurement) ascii(column attest.Hash) string {
	data := fmt.Sprintf("%s%x %s", m.prefix, m.digest, m.name)
	if m.prefix == ":" {
		data = fmt.Sprintf("%x %s", m.digest, m.name)
	}
	if m.hasTail() {
		data += " " + hex.EncodeToString(m.tail)
	}
	return fmt.Sprintf("%2d %x %s %s\n", m.register(), m.column(column), m.template, data)
}

func (m measurement) binary(column attest.Hash) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(m.register()))
	out = append(out, m.column(column)...)
	out = append(out, sized([]byte(m.template))...)
	if m.template == "ima" {
		return append(out, m.data()...)
	}
	return append(out, sized(m.data())...)
}
