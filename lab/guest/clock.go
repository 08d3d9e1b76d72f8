package guest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// tpmDevice is the kernel's resource manager: it takes turns between us and an agent.
const tpmDevice = "/dev/tpmrm0"

const (
	// clockSaveEvery is when libtpms writes the clock to its NV memory: whenever it passes a multiple of this (NV_CLOCK_UPDATE_INTERVAL).
	clockSaveEvery = 4096 * time.Millisecond
	clockSlack     = 5 * time.Millisecond
	clockRetry     = time.Second
	responseHeader = 10 // tag, size, response code
	maxResponse    = 4096
)

// KeepClock does for an emulated TPM what hardware does by itself: it has the clock written to memory that outlives a power cut.
//
// TPM 2.0 Part 1, "Clock": a TPM saves Clock at least every 2^22 ms; after a power cut it starts from that value and says that it is not
// safe until it has passed every value that it may have shown before. libtpms keeps both halves of that promise in memory only: its file
// follows with the next command that changes NV, which may be hours later, and an emulator killed before shows an old clock and calls it
// safe. A machine with such a TPM looks as if it had been restored from a snapshot, and the verifier is right to say so. So a command that
// changes NV follows here each time that the clock has passed a save: nothing is left that a power cut could take back.
//
// It runs until ctx ends; errors are logged.
func KeepClock(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		if err := keepClock(ctx); err != nil {
			log.Error("the TPM's clock is not being saved", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(clockRetry):
		}
	}
}

func keepClock(ctx context.Context) error {
	// os.OpenFile would make it non-blocking, and then a read may come before the answer.
	fd, err := unix.Open(tpmDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", tpmDevice, err)
	}
	tpm := os.NewFile(uintptr(fd), tpmDevice)
	defer tpm.Close()
	return saveClock(ctx, tpm)
}

// saveClock saves the clock of a TPM until ctx ends or the TPM refuses.
func saveClock(ctx context.Context, tpm io.ReadWriter) error {
	for {
		if _, err := execute(tpm, sameOwnerAuth()); err != nil {
			return fmt.Errorf("save clock: %w", err)
		}
		clock, err := readClock(tpm)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clockSaveEvery - clock%clockSaveEvery + clockSlack):
		}
	}
}

// sameOwnerAuth is TPM2_HierarchyChangeAuth (Part 3, section 24.8) from the empty password to the empty password: it changes nothing, and is
// written to NV all the same. TPM2_ClockSet and PCR commands are not.
func sameOwnerAuth() []byte {
	const ownerHierarchy, passwordSession = 0x40000001, 0x40000009
	command := []byte{0x80, 0x02, 0, 0, 0, 29, 0, 0, 0x01, 0x29}
	command = binary.BigEndian.AppendUint32(command, ownerHierarchy)
	command = binary.BigEndian.AppendUint32(command, 9) // bytes of the session that follows: password, no nonce, no attributes, empty
	command = binary.BigEndian.AppendUint32(command, passwordSession)
	return append(command, 0, 0, 0, 0, 0, 0, 0)
}

// readClock is TPM2_ReadClock (Part 3, section 29.1), whose answer is the time since the start and then the clock, both in ms.
func readClock(tpm io.ReadWriter) (time.Duration, error) {
	answer, err := execute(tpm, []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81})
	if err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	if len(answer) < 16 {
		return 0, fmt.Errorf("read clock: answer of %d bytes", len(answer))
	}
	return time.Duration(binary.BigEndian.Uint64(answer[8:])) * time.Millisecond, nil
}

// execute sends a command and returns its answer without the header. A TPM hands over an answer in one read.
func execute(tpm io.ReadWriter, command []byte) ([]byte, error) {
	if _, err := tpm.Write(command); err != nil {
		return nil, err
	}
	answer := make([]byte, maxResponse)
	n, err := tpm.Read(answer)
	if err != nil {
		return nil, err
	}
	if n < responseHeader {
		return nil, fmt.Errorf("answer of %d bytes", n)
	}
	if code := binary.BigEndian.Uint32(answer[6:]); code != 0 {
		return nil, fmt.Errorf("TPM response code %#x", code)
	}
	return answer[responseHeader:n], nil
}
