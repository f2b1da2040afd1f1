<?php
// The page that all the lab's systems have: it blocks for ?ms=.
$ms = (int) ($_GET['ms'] ?? 20);
usleep($ms * 1000);
$text = "worked $ms ms\n";
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($text));
echo $text;
