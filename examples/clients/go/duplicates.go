// The duplicate rule of docs/consuming.md, exact: prints each outcome's request id once, in log order.
//
//	go run . 127.0.0.1:9092 outcomes.batch 10
package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var source = regexp.MustCompile(`^(.+/\d+/\d+)/(\d+) ([1-9]\d*) [0-9a-f]{1,16}$`)

// Duplicates is what a reader knows of the partitions that feed one of its own: one for each partition
// that you read.
type Duplicates map[string]*window

// Everything below the floor is a copy; seen[n] says whether floor + n was seen.
type window struct {
	floor int64
	seen  []bool
}

// IsFirst takes note of a record by its `source` header.
func (d Duplicates) IsFirst(header string) bool {
	parts := source.FindStringSubmatch(header)
	if parts == nil {
		return true
	}
	offset, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return true
	}
	width, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return true
	}
	w := d[parts[1]]
	if w == nil {
		w = &window{}
		d[parts[1]] = w
	}
	if risen := offset + 1 - width; risen > w.floor {
		w.seen = w.seen[min(risen-w.floor, int64(len(w.seen))):]
		w.floor = risen
	}
	if offset < w.floor {
		return false
	}
	bit := offset - w.floor
	for int64(len(w.seen)) <= bit {
		w.seen = append(w.seen, false)
	}
	first := !w.seen[bit]
	w.seen[bit] = true
	return first
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: duplicates BOOTSTRAP TOPIC COUNT")
		os.Exit(2)
	}
	count, err := strconv.Atoi(os.Args[3])
	if err == nil {
		err = read(os.Args[1], os.Args[2], count)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(bootstrap, topic string, count int) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	until, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	partitions := map[int32]Duplicates{}
	for count > 0 {
		fetches := client.PollFetches(until)
		if err := until.Err(); err != nil {
			return fmt.Errorf("%d outcomes did not come: %w", count, err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			headers := map[string]string{}
			for _, header := range record.Headers {
				headers[header.Key] = string(header.Value)
			}
			if partitions[record.Partition] == nil {
				partitions[record.Partition] = Duplicates{}
			}
			if partitions[record.Partition].IsFirst(headers["source"]) && count > 0 {
				fmt.Println(headers["request_id"])
				count--
			}
		})
	}
	return nil
}
