package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// letGoOfBinary unmaps the pages of this executable. Most of the 60 MB were read once, while packages were initialised and
// everything was translated for the first time. The pages stay in the page cache, and those that are used come back
// without being read from the disk. The kernel takes pages that nobody maps first when memory is short.
func letGoOfBinary() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	ranges, err := cleanMappings(f, exe)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range ranges {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("madvise %x-%x: %w", r.start, r.end, errno))
		}
	}
	return errors.Join(errs...)
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings reads the mappings of a file from /proc/PID/smaps (proc(5)): those that cannot be written, and of which no
// page was changed, by relocation for example. Only these can be read again from the file.
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var out []mapping
	var m *mapping // the one that is read
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if key, isValue := strings.CutSuffix(fields[0], ":"); isValue {
			if m != nil && key == "Anonymous" && len(fields) > 1 && fields[1] == "0" {
				out = append(out, *m)
			}
			continue
		}
		m = nil
		if len(fields) != 6 || fields[5] != file || !strings.HasPrefix(fields[1], "r-") {
			continue
		}
		m = &mapping{}
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err != nil {
			return nil, fmt.Errorf("mapping %q: %w", fields[0], err)
		}
	}
	return out, lines.Err()
}
