package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"
)

// silence is how long a connection may bring nothing at all, keep-alives included, before the machine counts as gone. An emulated machine
// stands still for seconds.
const silence = 90 * time.Second

// ErrGuest is in every error that the machine reported itself, as opposed to one of the connection.
var ErrGuest = errors.New("in the machine")

// A Client reaches the exec service of one machine. It holds no connection: each call makes its own.
type Client struct {
	Addr string // host:port on the host's loopback
	Key  []byte
}

// A Command is what Exec runs. Without Streams' fields its input is empty and its output is dropped.
type Command struct {
	Args           []string
	Env            []string // KEY=value, added to PATH and HOME
	User           string   // root by default
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exec runs a command and returns its exit code, 128 plus the number of the signal for one that was killed. An error means that it was not
// run or that its end is not known. Cancelling ctx kills the command.
func (c Client) Exec(ctx context.Context, cmd Command) (int, error) {
	req := request{Op: opExec, Args: cmd.Args, Env: cmd.Env, User: cmd.User}
	return c.call(ctx, req, exchange{in: cmd.Stdin, out: cmd.Stdout, err: cmd.Stderr})
}

// ReadFile copies a file of the machine to w.
func (c Client) ReadFile(ctx context.Context, path string, w io.Writer) error {
	_, err := c.call(ctx, request{Op: opRead, Path: path}, exchange{out: w})
	return err
}

// WriteFile replaces the machine's file at path, or makes it, with what r holds; its folder must be there.
func (c Client) WriteFile(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	_, err := c.call(ctx, request{Op: opWrite, Path: path, Mode: uint32(mode.Perm())}, exchange{in: r})
	return err
}

// Reboot asks the machine to end its services, write its disk and restart; it returns when the machine has agreed, not when it is up again.
func (c Client) Reboot(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opReboot}, exchange{})
	return err
}

// PowerOff is Reboot without the return.
func (c Client) PowerOff(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opPowerOff}, exchange{})
	return err
}

type exchange struct {
	in       io.Reader
	out, err io.Writer
}

func (c Client) call(ctx context.Context, req request, x exchange) (int, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", req.Op, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	exit, err := c.converse(conn, req, x)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", req.Op, err)
	}
	return exit, nil
}

func (c Client) converse(conn net.Conn, req request, x exchange) (int, error) {
	in, out := bufio.NewReader(conn), &frameWriter{w: conn}
	conn.SetDeadline(time.Now().Add(silence))
	nonce := make([]byte, nonceBytes)
	if _, err := io.ReadFull(in, nonce); err != nil {
		return 0, fmt.Errorf("exec service: %w", err)
	}
	if _, err := conn.Write(authenticate(c.Key, nonce)); err != nil {
		return 0, fmt.Errorf("exec service: %w", err)
	}
	if err := out.sendJSON(kindRequest, req); err != nil {
		return 0, err
	}
	conn.SetDeadline(time.Time{})
	if req.Op == opExec || req.Op == opWrite {
		// A write that fails in the machine ends in a result that says why; the broken pipe that it leaves here says less.
		go sendInput(out, x.in)
	}
	return receive(conn, in, x)
}

func sendInput(out *frameWriter, in io.Reader) {
	if in != nil {
		if _, err := io.Copy(stream{out, kindInput}, in); err != nil {
			return
		}
	}
	out.send(kindInput, nil)
}

func receive(conn net.Conn, in *bufio.Reader, x exchange) (int, error) {
	for {
		conn.SetReadDeadline(time.Now().Add(silence))
		k, payload, err := readFrame(in)
		if err != nil {
			return 0, err
		}
		switch k {
		case kindOutput:
			err = writeTo(x.out, payload)
		case kindError:
			err = writeTo(x.err, payload)
		case kindAlive:
		case kindResult:
			return decodeResult(payload)
		default:
			err = fmt.Errorf("%w: kind %q", ErrFrame, byte(k))
		}
		if err != nil {
			return 0, err
		}
	}
}

func writeTo(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

func decodeResult(payload []byte) (int, error) {
	var res result
	if err := json.Unmarshal(payload, &res); err != nil {
		return 0, fmt.Errorf("%w: result: %w", ErrFrame, err)
	}
	if res.Error != "" {
		return 0, fmt.Errorf("%w: %s", ErrGuest, res.Error)
	}
	return res.Exit, nil
}
