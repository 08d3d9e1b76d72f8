package guest

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The exec service speaks frames over one TCP connection per command: a kind, a length (big endian), the bytes. The server begins with
// a nonce, the client answers with its HMAC under the machine's key, then sends one request.
const (
	nonceBytes    = 32
	maxFrameBytes = 64 << 10
)

type kind byte

const (
	kindRequest kind = 'Q'
	kindInput   kind = 'I' // an empty one ends the input
	kindOutput  kind = 'O'
	kindError   kind = 'E'
	kindAlive   kind = 'K'
	kindResult  kind = 'R'
)

// ErrFrame says that the other side of the exec service does not speak its protocol.
var ErrFrame = errors.New("malformed frame")

type request struct {
	Op   string   `json:"op"`
	Args []string `json:"args,omitempty"`
	Env  []string `json:"env,omitempty"`
	User string   `json:"user,omitempty"`
	Path string   `json:"path,omitempty"`
	Mode uint32   `json:"mode,omitempty"`
}

// The operations of a request.
const (
	opExec     = "exec"
	opRead     = "read"
	opWrite    = "write"
	opReboot   = "reboot"
	opPowerOff = "poweroff"
)

type result struct {
	Exit  int    `json:"exit"`
	Error string `json:"error,omitempty"`
}

func authenticate(key, nonce []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("assay.lab.exec.v1"))
	mac.Write(nonce)
	return mac.Sum(nil)
}

// readFrame returns one frame. The payload is read in full only after its length was found to be within the limit.
func readFrame(r *bufio.Reader) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrameBytes {
		return 0, nil, fmt.Errorf("%w: kind %q of %d bytes", ErrFrame, head[0], size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("read frame of kind %q: %w", head[0], err)
	}
	return kind(head[0]), payload, nil
}

// A frameWriter lets several streams share a connection.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) send(k kind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := make([]byte, 0, 5+len(payload))
	buf = append(buf, byte(k))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(payload)))
	if _, err := f.w.Write(append(buf, payload...)); err != nil {
		return fmt.Errorf("send frame of kind %q: %w", byte(k), err)
	}
	return nil
}

func (f *frameWriter) sendJSON(k kind, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame of kind %q: %w", byte(k), err)
	}
	if len(data) > maxFrameBytes {
		return fmt.Errorf("%w: request of %d bytes, at most %d", ErrFrame, len(data), maxFrameBytes)
	}
	return f.send(k, data)
}

// A stream is an io.Writer that sends what it gets as frames of one kind.
type stream struct {
	to   *frameWriter
	kind kind
}

func (s stream) Write(p []byte) (int, error) {
	sent := 0
	for len(p) > 0 {
		part := p[:min(len(p), maxFrameBytes/2)]
		if err := s.to.send(s.kind, part); err != nil {
			return sent, err
		}
		sent += len(part)
		p = p[len(part):]
	}
	return sent, nil
}
