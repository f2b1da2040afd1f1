<?php
// The pages and faults of Bulkhead's demo, in PHP. What a fault ends is up to PHP: most of them end the request.

function number($name, $default) { return (int) ($_GET[$name] ?? $default); }

// For how long this process has had a processor, in microseconds.
function processor_us() {
    $used = getrusage();
    return ($used['ru_utime.tv_sec'] + $used['ru_stime.tv_sec']) * 1000000
        + $used['ru_utime.tv_usec'] + $used['ru_stime.tv_usec'];
}

// Calls itself by way of the engine, which has a stack of the system's size and no eye on it.
function deeper() { array_map('deeper', [1]); }

header('Content-Type: text/plain');
switch ($_SERVER['SCRIPT_NAME']) {
    case '/work':
        usleep(number('ms', 20) * 1000);
        echo "worked\n";
        break;
    case '/cpu':
        if (isset($_GET['burn_ms'])) {
            // This process has one thread, so what it uses is what this page uses.
            $end = processor_us() + number('burn_ms', 20) * 1000;
            while (processor_us() < $end) { }
            echo "burned\n";
            break;
        }
        $end = hrtime(true) + number('ms', 20) * 1000000;
        while (hrtime(true) < $end) { }
        echo "burned\n";
        break;
    case '/segv':
        ini_set('memory_limit', '-1');
        deeper();
        break;
    case '/abort':
        posix_kill(getmypid(), 6);
        break;
    case '/exit':
        exit(number('code', 3));
    case '/panic':
        throw new Exception('/panic was asked for');
    case '/hang':
        while (true) { sleep(60); }
    case '/leak':
        $block = str_repeat('x', number('mb', 16) << 20);
        echo 'holds ', strlen($block) >> 20, " MiB until the end of this request\n";
        break;
    case '/forks':
        $children = number('n', 8);
        exec("for i in \$(seq $children); do sleep 600 </dev/null >/dev/null 2>&1 & done 2>/dev/null");
        echo "started children that stay\n";
        break;
    case '/files':
        $files = [];
        for ($opened = 0; $opened < number('n', 100); $opened++) {
            $file = @fopen('/proc/self/status', 'r');
            if (!$file) { http_response_code(507); break; }
            $files[] = $file;
        }
        echo "opened $opened files, until the end of this request\n";
        break;
    default:
        http_response_code(404);
        echo "there is no such page\n";
}
